"""A reader of what a Modelfile uses of Go's text/template, and Go itself where it is installed. No test stands here.

Strings, variables, fields, `if` with `else if` and `else`, `range` with index, `eq`, `gt`, `and`, `not`, `index`.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

_CODE = re.compile(r'\{\{ ((?:"(?:[^"\\]|\\.)*"|[^"}]|\}(?!\}))*) \}\}', re.DOTALL)
_WORD = re.compile(r'"(?:[^"\\]|\\.)*"|[()]|[^\s()]+')


class Words(dict):
    """A JSON object that prints as Ollama's do: without spaces, the keys of a function in its order."""

    def __str__(self) -> str:
        return json.dumps(self, separators=(",", ":"))


def render(template: str, data: dict[str, Any]) -> str:
    """Run the template."""
    parts, at = [], 0
    for found in _CODE.finditer(template):
        parts += [("text", template[at : found.start()]), ("code", found[1])]
        at = found.end()
    return _run([*parts, ("text", template[at:])], 0, {"$": data}, data)[0]


def _run(parts: list, at: int, names: dict, dot: Any) -> tuple[str, int]:
    """What stands up to the next end or else of this level, and where that is."""
    out = ""
    while at < len(parts):
        kind, said = parts[at]
        if kind == "text":
            out += said
        elif said == "end" or said.startswith("else"):
            return out, at
        elif said.startswith("if "):
            text, at = _choose(parts, at, names, dot)
            out += text
        elif said.startswith("range "):
            text, at = _each(parts, at, names, dot)
            out += text
        elif found := re.match(r"(\$\w+) :?= (.*)", said):
            names[found[1]] = _value(found[2], names, dot)
        else:
            out += str(_value(said, names, dot))
        at += 1
    return out, at


def _choose(parts: list, at: int, names: dict, dot: Any) -> tuple[str, int]:
    chosen, said = None, parts[at][1]
    while said != "end":
        holds = said == "else" or _value(said.removeprefix("else ").removeprefix("if "), names, dot)
        wanted = chosen is None and bool(holds)
        text, at = _run(parts, at + 1, names if wanted else dict(names), dot) if wanted else ("", _skip(parts, at + 1))
        chosen = text if wanted else chosen
        said = parts[at][1]
    return chosen or "", at


def _skip(parts: list, at: int) -> int:
    depth = 0
    while True:
        kind, said = parts[at]
        opens = kind == "code" and said.startswith(("if ", "range "))
        if kind == "code" and not depth and (said == "end" or said.startswith("else")):
            return at
        depth += opens - (kind == "code" and said == "end")
        at += 1


def _each(parts: list, at: int, names: dict, dot: Any) -> tuple[str, int]:
    index, item, where = re.fullmatch(r"range (\$\w+), (\$\w+) := (.*)", parts[at][1]).groups()
    out = ""
    for number, one in enumerate(_value(where, names, dot) or ()):
        names[index], names[item] = number, one
        out += _run(parts, at + 1, names, one)[0]
    return out, _skip(parts, at + 1)


def _value(said: str, names: dict, dot: Any) -> Any:
    return _call(_WORD.findall(said), names, dot)


def _call(words: list[str], names: dict, dot: Any) -> Any:
    given = []
    while words:
        word = words.pop(0)
        if word == "(":
            end = words.index(")")
            given.append(_call(words[:end], names, dot))
            del words[: end + 1]
        else:
            given.append(_atom(word, names, dot))
    first, *rest = given
    if not callable(first):
        return first
    return first(*rest)


_KNOWN = {
    "eq": lambda one, other: one == other,
    "gt": lambda one, other: one > other,
    "and": lambda one, other: one and other,
    "not": lambda one: not one,
    "index": lambda items, number: items[number],
}


def _atom(word: str, names: dict, dot: Any) -> Any:
    if word in _KNOWN:
        return _KNOWN[word]
    if word[0] == '"' or re.fullmatch(r"-?\d+", word):
        return json.loads(word)
    start, *path = word.split(".")
    found = names[start] if start else dot
    for key in path:
        found = found.get(key, "") if key else found
    return found


_PROGRAM = """package main

import ("encoding/json"; "os"; "text/template")

type Function struct { Name string; Arguments Raw }
type Raw struct { json.RawMessage }
func (r Raw) String() string { return string(r.RawMessage) }
type Call struct { Function Function }
type Message struct { Role, Content, Thinking string; ToolCalls []Call }
type Tool struct { Function Raw }
type Case struct { Template string; Messages []Message; Tools []Tool }

func main() {
	var cases []Case
	if err := json.NewDecoder(os.Stdin).Decode(&cases); err != nil { panic(err) }
	out := []string{}
	for _, one := range cases {
		made := template.Must(template.New("").Option("missingkey=zero").Parse(one.Template))
		file, _ := os.CreateTemp("", "")
		if err := made.Execute(file, one); err != nil { panic(err) }
		text, _ := os.ReadFile(file.Name())
		os.Remove(file.Name())
		out = append(out, string(text))
	}
	json.NewEncoder(os.Stdout).Encode(out)
}
"""


def by_go(folder: Path, cases: list[dict[str, Any]]) -> list[str] | None:
    """What Go's own engine makes of cases (Template, Messages, Tools); None where Go is not installed."""
    go = shutil.which("go")
    if go is None:
        return None
    (folder / "main.go").write_text(_PROGRAM)
    told = json.dumps(cases, separators=(",", ":"))
    done = subprocess.run([go, "run", "main.go"], cwd=folder, input=told, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)
