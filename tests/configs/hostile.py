"""Experiments that no one means to write: hostile values, tags, aliases and bytes."""

from __future__ import annotations

import copy
import random
from typing import Any

import yaml

from tests.experiments import REPOSITORY, small

POCKET = (REPOSITORY / "configs" / "pocket.yaml").read_text(encoding="utf-8")

VALUES = [
    # Text that its tag does not allow, and tags that are not data.
    *(f"!!{tag} {text}" for tag in ("int", "float", "timestamp", "bool", "null", "binary", "str")
      for text in ("x", '""', "-", "0x", "1:", "é", "[a]", "{a: 1}", "2021-13-45", "0b", "+")),
    *(f"!!{tag} {text}" for tag in ("omap", "pairs", "set", "seq", "map", "value", "merge", "yaml")
      for text in ("x", "[a]", "[a: 1]", "{a: 1}", "{? a, ? b}", "[[1, 2, 3]]")),
    "!!python/object/apply:os.system [ls]", "!!python/name:os.system", "!x y", "! y", "!<!> y",
    # Numbers beyond every limit.
    "9" * 5000, "-" + "9" * 5000, "0x" + "f" * 6000, "0b" + "1" * 9000, "0" + "7" * 9000,
    "1" + ":59" * 3000, "1" + ":59" * 3000 + ".5", "1.0e+400", "1e400", "1e999999999",
    "-1e999999999", "'1e999999999/3'", "'1/1e999999999'", "'10/0'", "0/0", "1/" + "9" * 400,
    ".inf", "-.inf", ".nan", "2147483648", "4294967296", "9223372036854775808", "1_0", "1e6",
    "18446744073709551616", "1000000", "1000000000", "-1", "0", "1.0e-320", "1.0e+308", "-0.0",
    "3.5", "'3.5'", "'10/3'", "' 3'", "'+3'", "'٣'",
    # Text that is none, or breaks the line.
    r'"\0"', r'"a\0b"', r'"\ud800"', r'"\udc80"', r'"\UFFFFFFFF"', r'"\x1b[31m"', r'"a\nError: b"',
    r'"\u2028"', r'"\x85"', r'"\r"', r'"\uFEFF"', '""', "' '", "é" * 3000, "x" * 5000,
    "x" * 201, "a" * 100_000, "'" + "../" * 1600 + "'", "/" * 3000, "/dev/zero", "/dev/stdin", "..",
    "/proc/self/mem", "~", "'~'", "'{seed}'", "'{'", "'%s'", "world", "json", "text", "hub/name",
    # Other types.
    "yes", "no", "[]", "{}", "[[]]", "[1, x]", "{a: 1}", "{1: 2}", "{[1]: 2}", "{{a: 1}: 2}",
    "{~: 1}", "{true: 1, 1: 2}", "{1: a, '1': b}", "2021-01-01", "2021-13-45", "{x: 1, x: 2}",
    "2021-01-01 25:61:61", "=", "<<", "{<<: 3}", "{<<: [1]}", "{<<: {a: 1}, <<: {b: 1}}",
    '{"a\\nb": 1}', '{"a\\nb": 1, "a\\nb": 2}', "{checkpoints: {mini: x}}", "{buffer: 1e9}",
    "{static: 99999999999}", "[{every: 1}]", "[{every: 1, until: 1000000000}]", "10/3",
    "[3, 10/3, 1e400]", "other.yaml", "missing.yaml",
    # Depth, and aliases that name themselves or multiply.
    "[" * 60 + "]" * 60, "[" * 5000 + "]" * 5000, "{a: " * 60 + "1" + "}" * 60, "[" * 3000,
    "{? " * 3000, "- " * 3000, "&x [*x]", "&x {a: *x}", "&x {<<: *x}", "&x {*x : 1}", "*nowhere",
    "[&a 1, *a, *a]", "[&a " + "[1]" * 1 + ", &a [2]]",
]  # fmt: skip


def bomb(kind: str, levels: int, width: int = 9) -> str:
    """Make aliases that multiply: `width ** levels` values in lists, mappings or merges."""
    lines = ["a0: &a0 {x: 1}" if kind != "list" else "a0: &a0 [1]"]
    for level in range(1, levels + 1):
        before = [f"*a{level - 1}"] * width
        if kind == "list":
            value = f"[{', '.join(before)}]"
        elif kind == "map":
            value = f"{{{', '.join(f'k{i}: {alias}' for i, alias in enumerate(before))}}}"
        else:
            value = f"{{<<: [{', '.join(before)}]}}"
        lines.append(f"a{level}: &a{level} {value}")
    return "\n".join(lines) + "\n"


def chain(levels: int) -> str:
    """Make nesting that is deep only once aliases are replaced."""
    return "a0: &a0 [1]\n" + "".join(
        f"a{level}: &a{level} [*a{level - 1}]\n" for level in range(1, levels + 1)
    )


def _places(part: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """List the paths of all parts of a configuration, but not its own."""
    entries = part.items() if isinstance(part, dict) else enumerate(part)
    return [
        place
        for key, value in entries
        for place in (
            (*path, key),
            *(_places(value, (*path, key)) if isinstance(value, dict | list) else ()),
        )
    ]


def _plain(rng: random.Random) -> dict[str, Any]:
    if rng.random() < 0.6:
        plain: dict[str, Any] = yaml.safe_load(POCKET)
    else:
        plain = small("out")
        if rng.random() < 0.5:
            del plain["corpus"], plain["vocabulary"]
            plain["pretraining"] = {"checkpoints": {"mini": "a{seed}", "base": "b{seed}"}}
            plain["pretraining"]["seeds"] = 2
    # Aliases of its own would be replaced by hostile values in several places.
    return copy.deepcopy(plain)


def _with_values(rng: random.Random) -> bytes:
    """Put hostile values at a place or two; sometimes a hostile key, or a key twice."""
    plain = _plain(rng)
    values = {}
    for number in range(rng.choice((1, 1, 1, 2))):
        *path, last = rng.choice(_places(plain))
        part: Any = plain
        for key in path:
            part = part[key]
        marker = f"HOSTILE{number}"
        values[marker] = rng.choice(VALUES)
        if isinstance(part, dict) and rng.random() < 0.1:
            part[marker] = part.pop(last)
        else:
            part[last] = marker
    text = yaml.safe_dump(plain, default_flow_style=True, width=1 << 20, allow_unicode=True)
    for marker, value in values.items():
        text = text.replace(marker, value)
    return text.encode("utf-8", "surrogatepass")


def _with_lines(rng: random.Random) -> bytes:
    """Remove, repeat, exchange or indent lines, or put a bomb among them."""
    lines = POCKET.splitlines(keepends=True)
    place, other = rng.randrange(len(lines)), rng.randrange(len(lines))
    kind = rng.randrange(6)
    if kind == 0:
        del lines[place]
    elif kind == 1:
        lines.insert(other, lines[place])
    elif kind == 2:
        lines[place], lines[other] = lines[other], lines[place]
    elif kind == 3:
        lines[place] = " " * rng.randrange(1, 4) + lines[place]
    elif kind == 4:
        multiplied = bomb(rng.choice(("list", "map", "merge")), rng.randrange(1, 30))
        lines.insert(rng.choice((0, len(lines))), multiplied)
    else:
        lines.insert(0, chain(rng.randrange(1, 400)))
    return "".join(lines).encode()


def _with_bytes(rng: random.Random) -> bytes:
    """Change, insert, remove or repeat bytes."""
    content = bytearray(POCKET.encode())
    for _ in range(rng.choice((1, 1, 2, 8))):
        place = rng.randrange(len(content))
        kind = rng.randrange(5)
        if kind == 0:
            content[place] = rng.randrange(256)
        elif kind == 1:
            content[place:place] = rng.choice(
                (b"\0", b"\t", b"&a ", b"*a", b"!", b"'", b"{", b"- ")
            )
        elif kind == 2:
            del content[place : place + rng.randrange(1, 40)]
        elif kind == 3:
            content[place:place] = content[place : place + 100] * rng.choice((2, 50))
        else:
            del content[place:]
            content += b"\n"
    return bytes(content)


def hostile_experiment(seed: int) -> bytes:
    """Make the content of one configuration file; the same for the same seed."""
    rng = random.Random(seed)
    return rng.choice((_with_values, _with_values, _with_values, _with_lines, _with_bytes))(rng)
