"""The run that asks the rules: one pipeline for the Trainer, for anybody's own loop, and for a single step by hand."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.optim import Optimizer

from holdfast._errors import BadCheckpoint, BadInput, HoldfastError, TrainingStopped, Unsupported
from holdfast.before import Base
from holdfast.byhand import backward, set_gradients
from holdfast.losses import Losses, loss_in
from holdfast.movement import Movement
from holdfast.params.inventory import inventory
from holdfast.params.weights import copied, local, swapped, write
from holdfast.processes import mean, place
from holdfast.rule import Batch, Kind, Rule, State, Window
from holdfast.states import aside, cloned, keys, random_state, seeded, set_random_state


class Run:
    """All that a rule may see of a training run, and the pipeline that asks the rules.

    `step` counts completed optimiser steps; `params` maps the path of each trainable parameter to its `Param`;
    `stopped` says why the run was asked to stop, or is None; `interrupted` that it will be resumed; `penalties` holds
    the last penalty of each rule; `loss` is that of the step just done, penalties included (a scalar on the device;
    None after a step from ready gradients).
    `window` are the micro-batches of the step in hand as the rules made them, empty where the host did not say;
    `looking` is true inside `aside`, where the model is asked and does not learn;
    `total` is the number of steps that the host means to make, None where it did not say.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        rules: Sequence[Rule],
        *,
        seed: int = 0,
        scheduler: Any = None,
        sinks: Sequence[Callable[[dict[str, Any]], None]] = (),
        total: int | None = None,
    ):
        self.model, self.optimizer, self.scheduler = model, optimizer, scheduler
        self.rules, self.seed, self.total = list(rules), seed, total
        self.step = 0
        self.stopped: str | None = None
        self.interrupted = False
        self.journal: list[dict[str, Any]] = []
        self.penalties: dict[str, Tensor] = {}
        self.loss: Tensor | None = None
        self._sinks = list(sinks)
        self.tensors = {n: p for n, p in model.named_parameters() if p.requires_grad}
        self.params = {p.path: p for p in inventory(model) if p.path in self.tensors}
        self._keys = keys(self.rules)
        self._generators: dict[str, torch.Generator] = {}
        self._base: Base | None = None
        self._movement = Movement(self, optimizer, self.tensors, shared=place()[1] > 1)
        self.window: Window = []
        self._losses = Losses()
        self._spoke: set[str] = set()
        self.listens = self.looking = False
        self._open = False
        self._sharded = [m for m in model.modules() if isinstance(m, FSDPModule)]

    # What rules use -------------------------------------------------------------------------------------------------

    @property
    def base(self) -> Base:
        """The model as it was before the first step; first asked for in `begin`."""
        if self._base is None:
            if self.step:
                raise HoldfastError("run.base was asked for after the first step; ask for it in `begin`.")
            self._base = Base(self, copied(self.tensors))
        return self._base

    def generator(self, rule: Rule) -> torch.Generator:
        """The only source of randomness of a rule: seeded by the run's seed and the rule's own name."""
        key = self._keys[id(rule)]
        if key not in self._generators:
            self._generators[key] = seeded(self.seed, key)
        return self._generators[key]

    @contextmanager
    def at(self, values: Mapping[str, Tensor]) -> Iterator[None]:
        """The model at other values for a while; nothing is copied on plain tensors."""
        try:
            with swapped(self.tensors, values):
                self._forget()
                yield
        finally:
            self._forget()

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Evaluation mode and a forked random state; both are as before when it ends, and so is `looking`."""
        before, self.looking = self.looking, True
        try:
            with aside(self.model):
                yield
        finally:
            self.looking = before
            self._forget()

    def agreed(self, figure: Tensor) -> Tensor:
        """The mean of a figure over all processes, so that all decide alike; itself where there is only one."""
        return mean(figure, next(iter(self.tensors.values())).device)

    @property
    def process(self) -> tuple[int, int]:
        """The index of this process and the number of processes that train together."""
        return place()

    def log(self, kind: str, **figures: Any) -> None:
        """Write one line of the run's journal."""
        line = {"step": self.step, "kind": kind, **figures}
        self.journal.append(line)
        for sink in self._sinks:
            sink(line)

    def stop(self, reason: str) -> None:
        """Ask the host to stop after this step."""
        self.stopped = self.stopped or reason

    @torch.no_grad()
    def walk_back(self, values: Mapping[str, Tensor], fraction: float) -> None:
        """Go on from `values`, which lie a `fraction` of the way, with as much of Adam's first moment.

        Weights only: schedule, random state, step and data go on, and so does the second moment.
        """
        write(self.tensors, values)
        for name in values:
            moment = self.optimizer.state.get(self.tensors[name], {}).get("exp_avg")
            if moment is not None:
                moment.mul_(fraction)

    # What hosts call ------------------------------------------------------------------------------------------------

    def begin(self, prepared: State | None = None, state: State | None = None) -> None:
        """Hang on the optimiser and let each rule begin; with `prepared` and `state`, go on where a run stopped."""
        self._refuse()
        self._open = True
        self._movement.hang(self._active, self._check)
        if prepared is not None and state is not None:
            self._resume(prepared, state)
        else:
            with self.aside():
                for rule in self.rules:
                    rule.begin(self)
        self.hold()

    def batch(self, window: Window) -> Window:
        """The micro-batches of one optimiser step, as the rules want them learnt from."""
        self.hold()
        for rule in self._active("batch"):
            window = rule.batch(self, window)
        self.window = window
        return window

    def penalty(self, batch: Batch, outputs: Any) -> Tensor | float:
        """The rules' penalties for one micro-batch, divided by the number of micro-batches; 0.0 where there is none."""
        total: Tensor | float = 0.0
        for rule in self._active("penalty"):
            value = rule.penalty(self, batch, outputs)
            if value is not None:
                total = total + value / max(len(self.window), 1)
                key = self.name(rule)
                self.penalties[key] = value.detach()
                self._spoke.add(key)
        if self.listens and (loss := loss_in(outputs)) is not None:
            self.watch(loss / max(len(self.window), 1) + total)
        return total

    def name(self, rule: Rule) -> str:
        """What a rule is called in journal and states: its class in small letters, numbered from the second one on."""
        return self._keys[id(rule)].removesuffix("-1")

    def hold(self) -> None:
        """Ask the rules what must not move in the next step; `batch` asks too, so only a change in between needs it."""
        self._movement.hold(frozenset(n for r in self._active("holds") for n in r.holds(self)))

    def release(self) -> None:
        """Drop the gradients of what is held; call it before gradients are clipped, so that they do not count."""
        self._movement.release()

    @property
    def held(self) -> frozenset[str]:
        """Paths of the tensors that cannot move in the step to come."""
        return self._movement.held

    @property
    def moved(self) -> frozenset[str]:
        """Paths of the tensors that have moved since the base."""
        return frozenset(self._movement.moved)

    def leave_out(self) -> frozenset[str]:
        """Paths that a snapshot need not hold: they are held and have never moved; `unmoved` brings them back."""
        return self._movement.leave_out()

    def unmoved(self, name: str) -> Tensor | None:
        """The value of a tensor before it ever moved, or None where nothing keeps it."""
        if name not in self._movement.moved:
            return local(self.tensors[name])
        return self._movement.kept.get(name, None if self._base is None else self._base.values.get(name))

    @property
    def penalised(self) -> bool:
        """Whether any rule may add a penalty."""
        return bool(self._active("penalty"))

    def watch(self, loss: Tensor) -> None:
        """Note a micro-batch's part of the loss; the step is refused when one was not finite."""
        self._losses.note(loss.detach())

    def after(self) -> None:
        """Count the step and let the rules look; call it after the scheduler's step."""
        self._check()
        self.step += 1
        self.loss = self._losses.taken()
        self.penalties = {key: value for key, value in self.penalties.items() if key in self._spoke}
        self._spoke = set()
        for rule in sorted(self._active("after"), key=lambda rule: not rule.corrects):
            rule.after(self)

    def end(self) -> None:
        """Let each rule end and leave nothing behind; safe to call twice."""
        if not self._open:
            return
        self._open = False
        self._movement.take_off()
        ending = sorted(self.rules, key=lambda rule: rule.closing)
        with ExitStack() as stack:  # every rule ends, also where one of them fails to
            stack.callback(self._clear)
            for rule in ending[::-1]:
                stack.callback(rule.end, self)

    def advance(
        self,
        batch: Batch | Window | None = None,
        *,
        gradients: Mapping[str, Any] | None = None,
        clip: float | None = None,
    ) -> float:
        """One optimiser step by hand, from batches or from ready gradients; returns the loss (nan for gradients)."""
        if (batch is None) == (gradients is None):
            raise BadInput("advance takes either a batch (or a list of micro-batches) or gradients, not both.")
        loss = float("nan")
        if gradients is not None:
            self.hold()
            set_gradients(self, gradients)
        else:
            window = self.batch([batch] if isinstance(batch, dict) else list(batch or []))
            loss = backward(self, window)
        self.release()
        with self.uncast():
            if clip is not None:
                nn.utils.clip_grad_norm_(self.tensors.values(), clip)
            self.optimizer.step()
        if self.scheduler is not None:
            self.scheduler.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.after()
        return loss

    # State ----------------------------------------------------------------------------------------------------------

    def prepared(self) -> State:
        """What was made once, before the first step: the base values and each rule's own."""
        base = {} if self._base is None else {"base": self._base.values}
        return {**base, "rules": {self._keys[id(r)]: r.prepared() for r in self.rules}}

    def state(self) -> State:
        """What changes: step, strengths, generators and each rule's own state."""
        return {
            "step": self.step,
            "stopped": self.stopped,
            "moved": sorted(self._movement.moved),
            "strengths": {self._keys[id(r)]: r.strength for r in self.rules},
            "generators": {key: g.get_state() for key, g in self._generators.items()},
            "rules": {self._keys[id(r)]: r.state() for r in self.rules},
        }

    @property
    def stateless(self) -> list[str]:
        """Paths of the tensors that the optimiser keeps nothing about: they were held from the first step on."""
        return [n for n, p in self.tensors.items() if not self.optimizer.state.get(p)]

    def snapshot(self) -> State:
        """All that `restore` needs to go on bit for bit, given the same batches."""
        return {
            "weights": copied(self.tensors),
            "optimizer": cloned(self.optimizer.state_dict()),
            "scheduler": None if self.scheduler is None else copy.deepcopy(self.scheduler.state_dict()),
            "random": random_state(),
            "run": copy.deepcopy(self.state()),
        }

    def restore(self, snapshot: State) -> None:
        """Back to a snapshot: weights, optimiser, scheduler, random state, and the rules' state.

        Raises BadCheckpoint, before anything is touched, for a run with other rules.
        """
        self._same_rules(snapshot["run"]["rules"])
        write(self.tensors, snapshot["weights"])
        self.optimizer.zero_grad(set_to_none=True)
        self.optimizer.load_state_dict(cloned(snapshot["optimizer"]))
        if self.scheduler is not None:
            self.scheduler.load_state_dict(copy.deepcopy(snapshot["scheduler"]))
        set_random_state(snapshot["random"])
        self._restore(None, copy.deepcopy(snapshot["run"]))

    # Inside ---------------------------------------------------------------------------------------------------------

    def _active(self, hook: str) -> list[Rule]:
        return [r for r in self.rules if hook in r.hooks() and r.strength != 0]

    def _refuse(self) -> None:
        moving = [r for r in self.rules if "update" in r.hooks()]
        pulls = [type(r).__name__ for r in moving if r.kind is Kind.PULL or r.corrects]
        coarse = {n for n, p in self.tensors.items() if p.dtype in (torch.bfloat16, torch.float16)}
        if pulls and coarse:
            raise Unsupported(
                f"{', '.join(pulls)} moves weights by small fractions, which {min(coarse)} in half precision would "
                "lose. Load the trained weights in float32 and use mixed precision (bf16: true) instead."
            )

    def _resume(self, prepared: State, state: State) -> None:
        if "base" in prepared:
            device = next(iter(self.tensors.values())).device
            self._base = Base(self, {n: v.to(device) for n, v in prepared["base"].items()})
        self._restore(prepared["rules"], state)

    def _restore(self, prepared: State | None, state: State) -> None:
        self._same_rules(state["rules"])
        self.step, self.stopped = state["step"], state["stopped"]
        self._losses = Losses()
        self._generators = {}
        self._movement.moved = set(state["moved"])
        by_key = {self._keys[id(r)]: r for r in self.rules}
        for key, saved in state["generators"].items():
            self._generators.setdefault(key, torch.Generator()).set_state(saved)
        for key, rule in by_key.items():
            if state["strengths"][key] is not None:
                rule.strength = state["strengths"][key]
            rule.restore(self, None if prepared is None else prepared[key], state["rules"][key])

    def _same_rules(self, saved: Mapping[str, Any]) -> None:
        if saved.keys() != set(self._keys.values()):
            raise BadCheckpoint(
                f"This state is of a run with the rules {', '.join(sorted(saved)) or 'none'}, not "
                f"{', '.join(sorted(set(self._keys.values()))) or 'none'}. Resume with the rules that it had then."
            )

    def uncast(self) -> torch.autocast:
        """Backward passes and updates in full precision, also inside a caller's autocast."""
        return torch.autocast(next(iter(self.tensors.values())).device.type, enabled=False)

    def _clear(self) -> None:
        self._base, self._losses, self.window = None, Losses(), []

    def _forget(self) -> None:
        """Drop what others keep of the present weights: autocast its casts, FSDP2 what it gathered."""
        torch.clear_autocast_cache()
        for module in self._sharded:
            module.reshard()

    def _check(self) -> None:
        """Refuse a step after a loss that was not finite."""
        if not self._losses.finite(self.agreed):
            message = f"The loss was not a finite number in step {self.step + 1}, so that step was not taken."
            self.log("note", text=message)
            raise TrainingStopped(
                f"{message} Lower the learning rate, or look for empty or broken records in the data."
            )
