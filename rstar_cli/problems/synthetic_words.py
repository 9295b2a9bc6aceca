"""Word problems: stories about goods, money and travel."""

from __future__ import annotations

from rstar_cli.problems import synthetic_expressions as ex
from rstar_cli.problems.synthetic_draft import NAMES, Draft, Event, between, dividing, percent, whole

GOODS = (
    "apples", "pens", "books", "coins", "cards", "shells", "stamps", "marbles", "eggs", "cups", "toys", "cakes",
    "pears", "nuts", "beads", "balls", "plants", "tickets",
)  # fmt: skip
CONTAINERS = ("boxes", "bags", "crates", "jars", "baskets", "shelves")
PLACES = ("shop", "market", "store", "fair")
TRAVELS = ("drives", "travels", "rides", "sails")
SCALE = {2: "doubles", 3: "triples", 4: "quadruples"}
PERCENTAGES = (10, 20, 25, 30, 40, 50, 75)
PARTS = {2: "half", 3: "a third", 4: "a quarter", 5: "a fifth"}


def story(draft: Draft) -> None:
    """Containers with the same number of things in each."""
    draft.unit, draft.what = "goods", draft.rng.choice(GOODS)
    who, what, box = draft.who, draft.what, draft.rng.choice(CONTAINERS)
    k, m = draft.rng.randint(2, 12), draft.rng.randint(3, 20)
    draft.say(
        f"{who} has {k} {box} with {m} {what} in each.",
        f"{who} fills {k} {box} with {m} {what} each.",
        f"There are {m} {what} in each of the {k} {box} that {who} has.",
    )
    draft.step("multiply", "count all items", ex.MULTIPLY(k, m), ex.ADD(k, m))


def money(draft: Draft) -> None:
    """A purchase, from level 2 on often with a second one."""
    draft.unit = draft.what = "dollars"
    who, rng = draft.who, draft.rng
    k, m = rng.randint(2, 12), rng.randint(2, 30)
    goods = rng.choice(GOODS)
    draft.say(
        f"At the {rng.choice(PLACES)} {who} buys {k} {goods} at {m} dollars each.",
        f"{who} pays for {k} {goods} that cost {m} dollars each.",
        f"{who} orders {k} {goods} for {m} dollars each.",
    )
    draft.step("multiply", "first cost", ex.MULTIPLY(k, m), ex.ADD(k, m))
    if draft.level >= 2 and rng.random() < 0.7:
        k, m, more, last = rng.randint(2, 12), rng.randint(2, 30), rng.choice(GOODS), draft.last
        draft.say(
            f"{who} also takes {k} {more} at {m} dollars each.",
            f"Next come {k} {more} for {m} dollars each.",
        )
        draft.step(
            "second product", "add the next cost", ex.MULTIPLY_ADD(last, k, m), ex.ADD_ALL(last, k, m), ex.ADD(last, m)
        )


def travel(draft: Draft) -> None:
    """A distance from speed and time, with a second leg and a mean speed at higher levels."""
    draft.unit = draft.what = "km"
    who, rng, go = draft.who, draft.rng, draft.rng.choice(TRAVELS)
    speed, hours = rng.randint(10, 90), rng.randint(2, 9)
    draft.say(
        f"{who} {go} at {speed} km per hour for {hours} hours.",
        f"{who} {go} for {hours} hours at a speed of {speed} km per hour.",
    )
    draft.step("multiply", "distance", ex.MULTIPLY(speed, hours), ex.FLOOR_DIVIDE(speed, hours))
    if draft.level < 2 or rng.random() < 0.3:
        return
    speed, more, last = rng.randint(10, 90), rng.randint(2, 9), draft.last
    draft.say(
        f"Then {who} goes on for {more} hours at {speed} km per hour.",
        f"After that it is {speed} km per hour for {more} hours.",
    )
    draft.step(
        "second product", "add the second leg", ex.MULTIPLY_ADD(last, speed, more), ex.ADD_ALL(last, speed, more)
    )
    if draft.level >= 3 and draft.values[-1] % (hours + more) == 0:
        draft.say("Take the mean speed.", "Look at the mean speed of the trip.")
        draft.step("mean", "mean speed", ex.MEAN(draft.last, hours, more), ex.HALVE(draft.last))


def _loss(draft: Draft) -> int | None:
    value = draft.values[-1]
    return draft.rng.randint(2, min(40, int(value) - 1)) if value >= 6 else None


def _target(draft: Draft) -> int | None:
    return (int(draft.values[-1]) // 50 + draft.rng.randint(1, 2)) * 50


EVENTS = (
    Event(
        "add", "add the new ones", ex.ADD, (ex.SUBTRACT,), between(2, 40),
        {
            "goods": ("{who} gets {k} more {what}.", "A friend brings {k} more.", "Then {who} finds {k} {what}."),
            "dollars": ("{who} also pays {k} dollars for a ride.", "A fee of {k} dollars is added."),
            "km": ("Then {who} walks {k} km more.", "A detour adds {k} km."),
        },
    ),
    Event(
        "subtract", "take off what is gone", ex.SUBTRACT, (ex.ADD,), _loss,
        {
            "goods": ("{who} gives away {k}.", "Then {who} loses {k} {what}.", "{k} of the {what} are sold."),
            "dollars": ("A coupon takes off {k} dollars.", "{who} gets {k} dollars back."),
            "km": ("A shortcut saves {k} km.", "{k} km of it do not count."),
        },
    ),
    Event(
        "scale", "scale the amount", ex.MULTIPLY, (ex.ADD,), between(2, 4),
        {
            "goods": ("Then the number of {what} {word}.", "Overnight the amount {word}."),
            "dollars": ("Then the amount {word}.", "The next day the amount {word}."),
            "km": ("Then the distance {word}.", "With a new plan the distance {word}."),
        },
        words=SCALE,
    ),
    Event(
        "share", "take one share", ex.FLOOR_DIVIDE, (ex.SUBTRACT,), dividing(2, 3, 4, 5, 6, 8, 10),
        {
            "goods": (
                "They are shared equally among {k} people and {who} keeps one share.",
                "{who} packs them evenly into {k} bags and keeps one bag.",
            ),
            "dollars": (
                "{k} friends split this evenly. Take one share.",
                "It is paid evenly over {k} weeks. Take one week.",
            ),
            "km": (
                "The way is split evenly over {k} days. Take one day.",
                "{k} drivers split it evenly. Take one share.",
            ),
        },
    ),
    Event(
        "part", "keep the rest", ex.REST, (ex.FLOOR_DIVIDE,), dividing(2, 3, 4, 5),
        {
            "goods": ("Then {word} of them break.", "{who} gives {word} of them to a neighbor."),
            "dollars": ("A friend pays {word} of it and {who} the rest.", "Then {word} of it is paid back."),
            "km": ("Leave out {word} of the way.", "{who} sleeps for {word} of the way. Take the rest."),
        },
        words=PARTS,
    ),
    Event(
        "percent", "reduce by the percent", ex.PERCENT_OFF, (ex.SUBTRACT, ex.PERCENT_OF), percent(*PERCENTAGES),
        {
            "goods": ("Then {k} percent of the {what} are lost.", "The number goes down by {k} percent."),
            "dollars": ("A discount of {k} percent applies.", "It goes down by {k} percent."),
            "km": ("A new road makes it {k} percent shorter.", "The distance goes down by {k} percent."),
        },
    ),
    Event(
        "percent", "raise by the percent", ex.PERCENT_ON, (ex.ADD, ex.PERCENT_OF), percent(*PERCENTAGES),
        {
            "goods": ("Then the number of {what} grows by {k} percent.", "The number goes up by {k} percent."),
            "dollars": ("A tax of {k} percent is added.", "It goes up by {k} percent."),
            "km": ("Road works make it {k} percent longer.", "The distance goes up by {k} percent."),
        },
    ),
    Event(
        "each", "turn into dollars", ex.MULTIPLY, (ex.ADD,), between(2, 12),
        {
            "goods": ("Each one is worth {k} dollars.", "{who} gets {k} dollars for each."),
            "km": ("Each km costs {k} dollars.", "{who} gets {k} dollars for each km."),
        },
        becomes="dollars",
    ),
    Event(
        "gap", "gap to the target", ex.SUBTRACT_FROM, (ex.SUBTRACT, ex.ADD), whole(_target, 1, 900),
        {
            "goods": ("{who} wants {k} {what}. Take what is missing.", "Look how far below {k} this is."),
            "dollars": (
                "{who} has {k} dollars. Take what is left after this.",
                "Look how far below {k} dollars this is.",
            ),
            "km": ("The goal is {k} km. Take what is missing.", "Look how far below {k} km this is."),
        },
    ),
)  # fmt: skip


def aside(draft: Draft) -> None:
    """A sentence with a number that does not matter."""
    k = draft.rng.randint(2, 60)
    place = draft.rng.choice(PLACES)
    draft.say(f"{draft.who} is {k} years old.", f"The {place} is {k} years old.", f"It is day {k} of the year.")


def pick_person(draft: Draft) -> None:
    """Choose whom the problem is about."""
    draft.who = draft.rng.choice(NAMES)
