"""Draws docs/demo.svg, the losses of the demo's last run, from its trainer_log.jsonl: `python docs/draw_demo.py`.

Does not know how the demo was run.
"""

from __future__ import annotations

import json
from pathlib import Path

LOG = Path(__file__).resolve().parents[1] / "demo" / "out" / "tuned" / "trainer_log.jsonl"
PICTURE = Path(__file__).with_name("demo.svg")
WIDTH, HEIGHT, LEFT, BOTTOM, TOP, RIGHT = 640, 300, 60, 50, 30, 20
CURVES = {"loss": ("#1f6f5c", "training rows"), "eval_loss": ("#c2571a", "held-back questions")}
Points = list[tuple[int, float]]


def read(file: Path) -> dict[str, Points]:
    """(step, loss) of each curve."""
    lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    return {name: [(line["current_steps"], line[name]) for line in lines if line.get(name) is not None] for name in CURVES}


def draw(curves: dict[str, Points]) -> str:
    """The picture as SVG; both axes start at 0."""
    last = max(step for points in curves.values() for step, _ in points)
    most = max(loss for points in curves.values() for _, loss in points)

    def place(step: float, loss: float) -> tuple[float, float]:
        x = LEFT + step / last * (WIDTH - LEFT - RIGHT)
        return round(x, 1), round(HEIGHT - BOTTOM - loss / most * (HEIGHT - BOTTOM - TOP), 1)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="13">',
        f'<title>Loss of the demo over {last} steps</title><rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
    ]
    for mark in range(int(most * 2) + 1):
        x, y = place(0, mark / 2)
        parts.append(f'<path d="M{x},{y} H{WIDTH - RIGHT}" stroke="#dddddd"/>')
        parts.append(f'<text x="{x - 8}" y="{y + 4}" text-anchor="end" fill="#555555">{mark / 2:g}</text>')
    for step in range(0, last + 1, 200):
        x, y = place(step, 0)
        parts.append(f'<text x="{x}" y="{y + 20}" text-anchor="middle" fill="#555555">{step}</text>')
    parts.append(f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 10}" text-anchor="end" fill="#555555">optimizer steps</text>')
    for row, (name, (colour, label)) in enumerate(CURVES.items()):
        line = " ".join(f"{x},{y}" for x, y in (place(*point) for point in curves[name]))
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2.2"/>')
        parts.append(f'<text x="{WIDTH - RIGHT}" y="{TOP + 20 * row}" text-anchor="end" fill="{colour}">loss, {label}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


if __name__ == "__main__":
    PICTURE.write_text(draw(read(LOG)), encoding="utf-8")
