#!/usr/bin/env python3
"""Plots of a recorded run, as SVG without any library.

    pullpiri top --watch -o json > run.jsonl      # record
    hack/plot.py run.jsonl docs/images            # plot

Writes latency.svg (response time of each task against its bound and deadline; 99th percentile of each class' round trips)
and throughput.svg (rate of each class of each node). Exits 1 if the record holds nothing to plot.
"""
import datetime
import json
import math
import pathlib
import sys

WIDTH, HEIGHT = 760, 320
LEFT, RIGHT, TOP, BOTTOM = 70, 220, 36, 44
COLOURS = ["#1f6feb", "#d1242f", "#1a7f37", "#9a6700", "#8250df", "#0a7ea4", "#bf3989", "#57606a"]


def read(path):
    """The looks of a record: (seconds since the first, look)."""
    looks = []
    with open(path, encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                look = json.loads(line)
                at = datetime.datetime.fromisoformat(look["time"].replace("Z", "+00:00")[:26].rstrip("+:") + "+00:00")
            except (ValueError, KeyError) as error:
                sys.exit(f"{path}:{number}: expected a look of `pullpiri top -o json`: {error}")
            looks.append((at.timestamp(), look))
    if not looks:
        sys.exit(f"{path}: nothing recorded")
    start = looks[0][0]
    return [(at - start, look) for at, look in looks]


def series(looks, rows, name, value):
    """name(row) -> [(seconds, value(row))] without the looks that have none."""
    found = {}
    for at, look in looks:
        for row in look[rows]:
            measured = value(row)
            if measured is not None:
                found.setdefault(name(row), []).append((at, measured))
    return found


def escape(text):
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def ticks(low, high, logarithmic):
    if logarithmic:
        return [10.0 ** exponent for exponent in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)]
    step = 10.0 ** math.floor(math.log10(max(high, 1e-9)))
    if high / step < 3:
        step /= 2
    return [step * count for count in range(int(high / step) + 2)]


def chart(title, unit, lines, dashes, logarithmic):
    """An SVG: lines {name: [(x, y)]}, dashes {name: y} as horizontal lines."""
    xs = [x for points in lines.values() for x, _ in points]
    ys = [y for points in lines.values() for _, y in points if y > 0] + [y for y in dashes.values() if y > 0]
    if not xs or not ys:
        return None
    marks = ticks(min(ys), max(ys), logarithmic)
    low, high = (marks[0], marks[-1]) if logarithmic else (0.0, marks[-1])
    last = max(max(xs), 1e-9)

    def x_of(value):
        return LEFT + value / last * (WIDTH - LEFT - RIGHT)

    def y_of(value):
        if logarithmic:
            share = (math.log10(max(value, low)) - math.log10(low)) / max(math.log10(high) - math.log10(low), 1e-9)
        else:
            share = value / high
        return HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)

    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="11">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        f'<text x="{LEFT}" y="20" font-size="14">{escape(title)}</text>',
    ]
    for mark in marks:
        y = y_of(mark)
        out.append(f'<line x1="{LEFT}" y1="{y:.1f}" x2="{WIDTH - RIGHT}" y2="{y:.1f}" stroke="#d0d7de"/>')
        out.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{mark:g} {unit}</text>')
    for part in range(6):
        value = last * part / 5
        out.append(f'<text x="{x_of(value):.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{value:.0f} s</text>')
    entries = []
    for number, (name, points) in enumerate(sorted(lines.items())):
        colour = COLOURS[number % len(COLOURS)]
        path = " ".join(f"{x_of(x):.1f},{y_of(y):.1f}" for x, y in points)
        out.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.6"/>')
        entries.append((name, colour, ""))
    for number, (name, value) in enumerate(sorted(dashes.items())):
        colour = COLOURS[(number + len(lines)) % len(COLOURS)]
        y = y_of(value)
        out.append(
            f'<line x1="{LEFT}" y1="{y:.1f}" x2="{WIDTH - RIGHT}" y2="{y:.1f}" stroke="{colour}" stroke-dasharray="6 4"/>'
        )
        entries.append((name, colour, ' stroke-dasharray="6 4"'))
    for row, (name, colour, dash) in enumerate(entries):
        y = TOP + 10 + row * 17
        x = WIDTH - RIGHT + 12
        out.append(f'<line x1="{x}" y1="{y}" x2="{x + 22}" y2="{y}" stroke="{colour}" stroke-width="1.6"{dash}/>')
        out.append(f'<text x="{x + 28}" y="{y + 4}">{escape(name)}</text>')
    out.append("</svg>")
    return "\n".join(out) + "\n"


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    looks = read(sys.argv[1])
    folder = pathlib.Path(sys.argv[2])
    folder.mkdir(parents=True, exist_ok=True)

    def of(row, field, scale):
        return row["measured"][field] * scale if row.get("measured") and row["measured"].get(field) is not None else None

    latency = series(looks, "tasks", lambda row: f"{row['task']}: worst response", lambda row: of(row, "worstResponseNs", 1e-6))
    short = lambda row: "/".join(row["class"].split("/")[1:])
    latency |= series(
        looks, "classes", lambda row: f"{short(row)} on {row['node']}: p99", lambda row: of(row, "roundTripP99Seconds", 1e3)
    )
    limits = {}
    for _, look in looks:
        for row in look["tasks"]:
            limits[f"{row['task']}: proven bound"] = row["boundNs"] * 1e-6
            limits[f"{row['task']}: deadline"] = row["deadlineNs"] * 1e-6
    rates = series(
        looks, "classes", lambda row: f"{short(row)} on {row['node']}", lambda row: of(row, "bitsPerSecond", 1e-6)
    )
    plots = {
        "latency.svg": chart("Response times and round trips", "ms", latency, limits, True),
        "throughput.svg": chart("Throughput by class", "Mbit/s", rates, {}, False),
    }
    for name, text in plots.items():
        if text is None:
            sys.exit(f"{sys.argv[1]}: nothing to plot for {name}")
        (folder / name).write_text(text, encoding="utf-8")
        print(folder / name)


if __name__ == "__main__":
    main()
