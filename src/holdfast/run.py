"""The run that asks the rules: one pipeline for the Trainer, for anybody's own loop, and for a single step by hand."""

from __future__ import annotations

import copy
import hashlib
import logging
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer

from holdfast._errors import BadInput, HoldfastError, TrainingStopped, Unsupported
from holdfast.objective import items, loss_of
from holdfast.params.inventory import inventory
from holdfast.params.weights import Values, between, copied, local, swapped, write
from holdfast.rule import REPLAYED, Batch, Kind, Move, Rule, State, Window

logger = logging.getLogger(__name__)


class Run:
    """All that a rule may see of a training run, and the pipeline that asks the rules.

    `step` counts completed optimiser steps; `params` maps the path of each trainable parameter to its `Param`;
    `stopped` says why the run was asked to stop, or is None.
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
    ):
        self.model, self.optimizer, self.rules, self.seed, self.scheduler = (
            model,
            optimizer,
            list(rules),
            seed,
            scheduler,
        )
        self.step = 0
        self.stopped: str | None = None
        self.journal: list[dict[str, Any]] = []
        self._sinks = list(sinks)
        self.tensors = {n: p for n, p in model.named_parameters() if p.requires_grad}
        self.params = {p.path: p for p in inventory(model) if p.path in self.tensors}
        self._keys = _keys(self.rules)
        self._generators: dict[str, torch.Generator] = {}
        self._base: Base | None = None
        self._held: frozenset[str] = frozenset()
        self._before: Values = {}
        self._micro_batches = 1
        self._finite: Tensor | None = None
        self._handles: list[Any] = []
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
            digest = hashlib.sha256(f"{self.seed}/{key}".encode()).digest()
            self._generators[key] = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
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
        """Evaluation mode and a forked random state; both are as before when it ends."""
        modes = {m: m.training for m in self.model.modules()}
        devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
        numpy_state, python_state = np.random.get_state(), random.getstate()
        try:
            with torch.random.fork_rng(devices=devices):
                self.model.eval()
                yield
        finally:
            np.random.set_state(numpy_state)
            random.setstate(python_state)
            for module, mode in modes.items():
                module.training = mode
            self._forget()

    def agreed(self, figure: Tensor) -> Tensor:
        """The mean of a figure over all processes, so that all decide alike; itself where there is only one."""
        if not self._wrapped:
            return figure
        total = figure.detach().to(next(iter(self.tensors.values())).device, copy=True)
        torch.distributed.all_reduce(total)
        return (total / torch.distributed.get_world_size()).to(figure.device)

    @property
    def process(self) -> tuple[int, int]:
        """The index of this process and the number of processes that train together."""
        return (torch.distributed.get_rank(), torch.distributed.get_world_size()) if self._wrapped else (0, 1)

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
    def walk_back(self, towards: Mapping[str, Tensor], fraction: float) -> None:
        """Keep `fraction` of the way from `towards` to the present weights, and as much of Adam's first moment.

        Weights only: schedule, random state, step and data go on, and so does the second moment.
        """
        write(self.tensors, between(towards, {n: local(self.tensors[n]) for n in towards}, fraction))
        for name in towards:
            moment = self.optimizer.state.get(self.tensors[name], {}).get("exp_avg")
            if moment is not None:
                moment.mul_(fraction)

    # What hosts call ------------------------------------------------------------------------------------------------

    def begin(self, prepared: State | None = None, state: State | None = None) -> None:
        """Hang on the optimiser and let each rule begin; with `prepared` and `state`, go on where a run stopped."""
        self._refuse()
        self._open = True
        self._flags = {n: p.requires_grad for n, p in self.tensors.items()}
        self._handles = [
            self.optimizer.register_step_pre_hook(self._before_step),
            self.optimizer.register_step_post_hook(self._after_step),
        ]
        if prepared is not None and state is not None:
            self._resume(prepared, state)
        else:
            with self.aside():
                for rule in self.rules:
                    rule.begin(self)
        self._hold()

    def batch(self, window: Window) -> Window:
        """The micro-batches of one optimiser step, as the rules want them learnt from."""
        self._hold()
        for rule in self._active("batch"):
            window = rule.batch(self, window)
        self._micro_batches = max(len(window), 1)
        return window

    def penalty(self, batch: Batch, outputs: Any) -> Tensor | float:
        """The rules' penalties for one micro-batch, divided by the number of micro-batches; 0.0 where there is none."""
        total: Tensor | float = 0.0
        for rule in self._active("penalty"):
            value = rule.penalty(self, batch, outputs)
            if value is not None:
                total = total + value / self._micro_batches
        return total

    def release(self) -> None:
        """Drop the gradients of what is held; call it before gradients are clipped, so that they do not count."""
        for name in self._held:
            self.tensors[name].grad = None

    @property
    def penalised(self) -> bool:
        """Whether any rule may add a penalty."""
        return bool(self._active("penalty"))

    def watch(self, loss: Tensor) -> None:
        """Note a loss; the step is refused when one was not finite."""
        finite = torch.isfinite(loss.detach()).all()
        self._finite = finite if self._finite is None else self._finite & finite

    def after(self) -> None:
        """Count the step and let the rules look; call it after the scheduler's step."""
        self.step += 1
        for rule in self._active("after"):
            rule.after(self)

    def end(self) -> None:
        """Let each rule end and leave nothing behind; safe to call twice."""
        if not self._open:
            return
        self._open = False
        for handle in self._handles:
            handle.remove()
        self._hold(frozenset())
        for name, flag in self._flags.items():
            self.tensors[name].requires_grad_(flag)
        with ExitStack() as stack:  # every rule ends, also where one of them fails to
            stack.callback(self._clear)
            for rule in reversed(self.rules):
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
            self._hold()
            self._set_gradients(gradients)
        else:
            window = self.batch([batch] if isinstance(batch, dict) else list(batch or []))
            loss = self._backward(window)
        self.release()
        with self._uncast():
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
            "strengths": {self._keys[id(r)]: r.strength for r in self.rules},
            "generators": {key: g.get_state() for key, g in self._generators.items()},
            "rules": {self._keys[id(r)]: r.state() for r in self.rules},
        }

    def snapshot(self) -> State:
        """All that `restore` needs to go on bit for bit, given the same batches."""
        return {
            "weights": copied(self.tensors),
            "optimizer": _cloned(self.optimizer.state_dict()),
            "scheduler": None if self.scheduler is None else copy.deepcopy(self.scheduler.state_dict()),
            "random": _random_state(),
            "run": copy.deepcopy(self.state()),
        }

    def restore(self, snapshot: State) -> None:
        """Back to a snapshot: weights, optimiser, scheduler, random state, and the rules' state."""
        write(self.tensors, snapshot["weights"])
        self.optimizer.load_state_dict(_cloned(snapshot["optimizer"]))
        if self.scheduler is not None:
            self.scheduler.load_state_dict(copy.deepcopy(snapshot["scheduler"]))
        _set_random_state(snapshot["random"])
        self._restore(None, copy.deepcopy(snapshot["run"]))

    # Inside ---------------------------------------------------------------------------------------------------------

    def _active(self, hook: str) -> list[Rule]:
        return [r for r in self.rules if hook in r.hooks() and r.strength != 0]

    def _refuse(self) -> None:
        pulls = [type(r).__name__ for r in self.rules if "update" in r.hooks() and r.kind is Kind.PULL]
        coarse = {n for n, p in self.tensors.items() if p.dtype in (torch.bfloat16, torch.float16)}
        if pulls and coarse:
            raise Unsupported(
                f"{', '.join(pulls)} pulls weights by small fractions, which {min(coarse)} in half precision would "
                "lose. Load the trained weights in float32 and use mixed precision (bf16: true) instead."
            )

    def _resume(self, prepared: State, state: State) -> None:
        if "base" in prepared:
            device = next(iter(self.tensors.values())).device
            self._base = Base(self, {n: v.to(device) for n, v in prepared["base"].items()})
        self._restore(prepared["rules"], state)

    def _restore(self, prepared: State | None, state: State) -> None:
        self.step, self.stopped = state["step"], state["stopped"]
        by_key = {self._keys[id(r)]: r for r in self.rules}
        for key, saved in state["generators"].items():
            self._generators.setdefault(key, torch.Generator()).set_state(saved)
        for key, rule in by_key.items():
            if state["strengths"][key] is not None:
                rule.strength = state["strengths"][key]
            rule.restore(self, None if prepared is None else prepared[key], state["rules"][key])

    def _hold(self, held: frozenset[str] | None = None) -> None:
        """Make the whole tensors that are held in the step to come unable to move, and release the others."""
        if held is None:
            held = frozenset(n for r in self._active("holds") for n in r.holds(self))
        if held == self._held:
            return
        for name in held ^ self._held:
            tensor = self.tensors[name]
            if not self._wrapped:
                tensor.requires_grad_(self._flags[name] and name not in held)
            tensor.grad = None
        logger.debug("step %d: held %s", self.step, ", ".join(sorted(held)) or "nothing")
        self._held = held

    @property
    def _wrapped(self) -> bool:
        """Data-parallel reducers count on gradients that were there when they were built: flags stay, gradients go."""
        return torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1

    def _uncast(self) -> torch.autocast:
        """Backward passes and updates in full precision, also inside a caller's autocast."""
        return torch.autocast(next(iter(self.tensors.values())).device.type, enabled=False)

    def _clear(self) -> None:
        self._handles, self._before, self._base, self._finite = [], {}, None, None

    def _forget(self) -> None:
        """Drop what others keep of the present weights: autocast its casts, FSDP2 what it gathered."""
        torch.clear_autocast_cache()
        for module in self._sharded:
            module.reshard()

    def _before_step(self, *_: Any) -> None:
        if self._finite is not None and bool(self.agreed(self._finite.float()) < 1):
            message = f"The loss was not a finite number in step {self.step + 1}, so that step was not taken."
            self.log("note", text=message)
            raise TrainingStopped(
                f"{message} Lower the learning rate, or look for empty or broken records in the data."
            )
        self._finite = None
        self.release()
        looking = [r for r in self._active("update") if r.looks_back]
        moving = {n: p for n, p in self.tensors.items() if p.grad is not None}
        self._before = copied({n: p for n, p in moving.items() if any(r.wants(self.params[n]) for r in looking)})

    @torch.no_grad()
    def _after_step(self, *_: Any) -> None:
        asked = sorted(self._active("update"), key=lambda r: r.kind)
        if asked:
            rates = {id(p): float(group["lr"]) for group in self.optimizer.param_groups for p in group["params"]}
            with self._uncast():
                for name, tensor in self.tensors.items():
                    if tensor.grad is not None and id(tensor) in rates:
                        self._ask(asked, name, rates[id(tensor)])
        self._before = {}
        torch.clear_autocast_cache()

    def _ask(self, asked: list[Rule], name: str, rate: float) -> None:
        param = self.params[name]
        partner = None if param.lora is None else local(self.model.get_parameter(param.lora.partner))
        move = Move(param, local(self.tensors[name]), self._before.get(name), partner, rate)
        for rule in asked:
            if rule.wants(param):
                rule.update(self, move)

    def _backward(self, window: Window) -> float:
        count = sum(items(self.model, b) for b in window)
        total = 0.0
        for batch in window:
            inputs = {k: v for k, v in batch.items() if k != REPLAYED}
            loss, outputs = loss_of(self.model, inputs, count, len(window))
            loss = loss + self.penalty(batch, outputs)
            self.watch(loss)
            with self._uncast():
                loss.backward()
            total += float(loss.detach())
        return total

    def _set_gradients(self, gradients: Mapping[str, Any]) -> None:
        for name, value in gradients.items():
            if name not in self.tensors:
                raise BadInput(f"There is no trainable parameter {name!r} for the gradient that was given.")
            tensor = self.tensors[name]
            gradient = torch.as_tensor(value, dtype=tensor.dtype, device=tensor.device)
            if gradient.shape != tensor.shape:
                raise BadInput(
                    f"The gradient for {name!r} has shape {tuple(gradient.shape)}; "
                    f"the parameter has {tuple(tensor.shape)}."
                )
            if isinstance(tensor, DTensor):
                gradient = distribute_tensor(gradient, tensor.device_mesh, tensor.placements)
            tensor.grad = None if name in self._held else gradient.clone()


class Base:
    """The model before the first step: the start values of what trains, swapped in for a forward pass.

    One copy of the trainable values serves teacher, anchors and governor, for full fine-tuning and for adapters of
    any initialisation; what does not train is shared with the model.
    """

    def __init__(self, run: Run, values: Values):
        self._run, self.values = run, values

    @torch.no_grad()
    def __call__(self, batch: Batch) -> Any:
        """The base model's outputs for a batch (labels and row marks are ignored), in evaluation mode."""
        inputs = {k: v for k, v in batch.items() if k not in (REPLAYED, "labels")}
        with self._run.aside(), self._run.at(self.values):
            return self._run.model(**inputs)


@contextmanager
def attach(
    rules: Sequence[Rule], model: nn.Module, optimizer: Optimizer, *, seed: int = 0, scheduler: Any = None
) -> Iterator[Run]:
    """The rules in anybody's own training loop.

    Call `run.batch([...])` on the micro-batches of a step, add `run.penalty(batch, outputs)` to each loss, and call
    `run.after()` after the optimiser's and the scheduler's step. Everything is taken off again at the end.
    """
    run = Run(model, optimizer, rules, seed=seed, scheduler=scheduler)
    try:
        run.begin()
        yield run
    finally:
        run.end()


def _keys(rules: Sequence[Rule]) -> dict[int, str]:
    """A stable name for each rule, wrapped ones included; rules that are off do not count."""
    keys: dict[int, str] = {}
    seen: dict[str, int] = {}
    for rule in sorted(rules, key=lambda r: r.strength == 0):
        chain = [rule]
        while isinstance(inner := getattr(chain[-1], "rule", None), Rule):
            chain.append(inner)
        name = type(chain[-1]).__name__.lower()
        seen[name] = seen.get(name, 0) + 1
        keys |= {id(r): f"{name}-{seen[name]}" for r in chain}
    return keys


def _cloned(value: Any) -> Any:
    """A deep copy; DTensors have none of their own."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, dict):
        return {k: _cloned(v) for k, v in value.items()}
    return [_cloned(v) for v in value] if isinstance(value, list) else copy.deepcopy(value)


def _random_state() -> dict[str, Any]:
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {"torch": torch.get_rng_state(), "cuda": cuda, "numpy": np.random.get_state(), "python": random.getstate()}


def _set_random_state(state: Mapping[str, Any]) -> None:
    torch.set_rng_state(state["torch"])
    if state["cuda"]:
        torch.cuda.set_rng_state_all(state["cuda"])
    np.random.set_state(state["numpy"])
    random.setstate(state["python"])
