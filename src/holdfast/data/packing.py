"""Running text cut into windows of one length, and what of each window is learnt."""

from __future__ import annotations

from collections.abc import Collection, Sequence

Row = dict[str, list[int]]
"""`input_ids` and `labels` of equal length; labels are -100 where nothing is learnt, and not shifted.

Where several rows may come from one text, `document` says for each token which text that is.
"""

IGNORED = -100


def packed(
    documents: Sequence[list[int]], begin: list[int], between: list[int], *, length: int, overlap: int
) -> list[Row]:
    """Documents in one stream, cut into rows of exactly `length` tokens; what does not fill the last row is left out.

    A stream that fills no row at all stands in one shorter row. Of `between`, only the first token (EOS) is learnt:
    what follows (BOS) is given wherever text is generated.
    """
    stream: list[int] = []
    labels: list[int] = []
    opens: set[int] = set()
    for ids in documents:
        if opens:
            stream += between
            labels += between[:1] + [IGNORED] * (len(between) - 1)
        opens.add(len(stream))
        stream += ids
        labels += ids
    room = length - len(begin)
    starts = range(0, max(len(stream) - room + 1, 1), room - overlap)
    return _cut(stream, labels, starts, opens, begin, room)


def windows(ids: list[int], begin: list[int], *, length: int, overlap: int) -> list[Row]:
    """One document in rows of `length` tokens; the last starts earlier, so that it is full and nothing is left out."""
    room = length - len(begin)
    latest = max(len(ids) - room, 0)
    starts = [*range(0, latest, room - overlap), latest]
    return _cut(ids, ids, starts, {0}, begin, room)


def _cut(
    stream: list[int], labels: list[int], starts: Sequence[int], opens: Collection[int], begin: list[int], room: int
) -> list[Row]:
    """Rows at `starts`; what the row before has scored is context, and so is a first token that nothing foretells."""
    rows = []
    scored = 0
    for at in starts:
        context = max(scored - at, 0 if at in opens else 1)
        learnt = [IGNORED] * context + labels[at + context : at + room]
        rows.append({"input_ids": begin + stream[at : at + room], "labels": [IGNORED] * len(begin) + learnt})
        scored = at + room
    return rows
