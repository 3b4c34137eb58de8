"""Little scenes in English and Chinese, with a question whose choices all occur in the scene."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from random import Random

from items import PEOPLE, Item, words

EACH = 150

OBJECTS = words("ball kite book hat drum doll cake boat shell lamp coin cup")
COLOURS = words("red blue green black white yellow")
PLACES = words("park garden forest kitchen school market barn castle village library")
DAYS = words("Monday Tuesday Wednesday Thursday Friday Saturday Sunday")

FOUND = [
    "{name} went to the {place} and found a {colour} {thing} there.",
    "In the {place}, {name} was playing with a {colour} {thing}.",
    "There was a {colour} {thing} in the {place}, and {name} picked it up.",
    "{name} bought a {colour} {thing} for a friend and took it to the {place}.",
]

ZH_PEOPLE = words("小明 小红 小华 小丽 小刚 小芳 小军 小玲 小强 小梅")
ZH_OBJECTS = words("风筝 皮球 帽子 雨伞 书包 杯子 积木 铅笔 钥匙 篮子")
ZH_COLOURS = words("红色 蓝色 绿色 黑色 白色 黄色")
ZH_PLACES = words("公园 花园 教室 厨房 市场 学校 车站 院子 商店 树林")
ZH_DAYS = words("星期一 星期二 星期三 星期四 星期五 星期六 星期日")

ZH_FOUND = [
    "{name}在{place}里找到了{colour}的{thing}。",
    "{name}带着{colour}的{thing}去了{place}。",
    "{place}里放着{colour}的{thing}，{name}把它捡了起来。",
    "{name}买了{colour}的{thing}，然后去了{place}。",
]


def english(random: Random) -> Iterator[Item]:
    """Who, where, what, which colour, when, and who has it in the end."""
    for i in range(EACH):
        (a, b, c), things, places = random.sample(PEOPLE, 3), random.sample(OBJECTS, 3), random.sample(PLACES, 3)
        colours, days = random.sample(COLOURS, 3), random.sample(DAYS, 3)
        told = _told(random, FOUND, [a, b, c], things, places, colours)
        told[0] = f"It was {days[0]}. {told[0]}"
        told[1] = f"On {days[1]}, {_inside(told[1])}"
        told[2] = f"On {days[2]}, {_inside(told[2])}"
        k = random.randrange(3)
        thing = things[k]
        to, other = random.sample([n for j, n in enumerate((a, b, c)) if j != k], 2)
        giver = (a, b, c)[k]
        gives = random.choice(
            [f" In the end, {giver} gave the {thing} to {to}.", f" In the end, {to} got the {thing} from {giver}."]
        )
        questions = [
            ("", f"The one who had the {thing} was", (a, b, c), k),
            ("", f"The {thing} was in the", places, k),
            ("", f"In the {places[k]} there was a", things, k),
            ("", f"The colour of the {thing} was", colours, k),
            ("", f"The day of the {thing} was", days, k),
            (gives, f"Now the {thing} belongs to", (to, giver, other), 0),
        ]
        yield _item(f"{' '.join(told)}{{}}\n{{}}", questions[i % len(questions)])


def chinese(random: Random) -> Iterator[Item]:
    """The same questions in Chinese; the answer stands on a line of its own, because no blank belongs before it."""
    for i in range(EACH):
        people, things, places = random.sample(ZH_PEOPLE, 3), random.sample(ZH_OBJECTS, 3), random.sample(ZH_PLACES, 3)
        colours, days = random.sample(ZH_COLOURS, 3), random.sample(ZH_DAYS, 3)
        told = _told(random, ZH_FOUND, people, things, places, colours)
        k = random.randrange(3)
        thing = things[k]
        to, other = random.sample([n for j, n in enumerate(people) if j != k], 2)
        gives = random.choice(
            [f"最后，{people[k]}把{thing}送给了{to}。", f"最后，{to}从{people[k]}那里得到了{thing}。"]
        )
        questions = [
            ("", f"谁有{thing}？", people, k),
            ("", f"{people[k]}在哪里？", places, k),
            ("", f"{people[k]}有什么东西？", things, k),
            ("", f"{thing}是什么颜色的？", colours, k),
            ("", f"星期几的事和{thing}有关？", days, k),
            (gives, f"{thing}现在是谁的？", (to, people[k], other), 0),
        ]
        text = "".join(f"{day}，{line}" for day, line in zip(days, told, strict=True))
        yield _item(f"{text}{{}}\n问题：{{}}\n答案：\n", questions[i % len(questions)])


def _told(random: Random, frames: list[str], *columns: list[str]) -> list[str]:
    return [
        frame.format(name=name, thing=thing, place=place, colour=colour)
        for frame, name, thing, place, colour in zip(random.sample(frames, 3), *columns, strict=True)
    ]


def _inside(text: str) -> str:
    """A sentence as it stands after another beginning: names keep their capital."""
    return text if text.split()[0] in PEOPLE else text[0].lower() + text[1:]


def _item(frame: str, question: tuple[str, str, Sequence[str], int]) -> Item:
    after, asked, choices, k = question
    wrong = tuple(choice for i, choice in enumerate(choices) if i != k)
    return Item(frame.format(after, asked), choices[k], wrong)
