"""The report: medians, ratios to the floor, a table in Markdown, a chart."""

import statistics
from html import escape

# A row is marked if others used more of the server's CPU than this, or its core was fuller.
OTHERS_PERCENT_MAX = 5
CORE_PERCENT_MAX = 97

BAR_HEIGHT, GAP, LEFT, WIDTH, BAR_WIDTH_MAX = 16, 6, 190, 860, 420


def add_ratios(rows):
    """CPU of each row as a multiple of that of others in the same round."""
    for row in rows:
        plain = row["server"].replace("-wss", "")
        bases = (("floor", "floor_ratio"), ("fastwebsockets", "fastwebsockets_ratio"))
        for name, key in (*bases, (plain, "plain_ratio")):
            same = [other for other in rows if other["server"] == name and is_same(other, row)]
            is_known = same and not same[0]["void"] and not row["void"]
            base = same[0]["cpu_ns_per_frame"] if is_known else None
            # A flood so short, or a server so slow, that no ACK fell into the window has no cost.
            cost = row["cpu_ns_per_frame"]
            row[key] = cost / base if base and cost else None


def is_same(one, other):
    return all(one[key] == other[key] for key in ("mode", "calls", "round"))


def groups(rows):
    """By mode and calls: by server, the rows of all rounds."""
    found = {}
    for row in rows:
        group = found.setdefault((row["mode"], row["calls"]), {})
        group.setdefault(row["server"], []).append(row)
    return found


def middle(rows, value):
    """The median over the rows that count; None if there is none."""
    values = [value(row) for row in rows if not row["void"]]
    values = [value for value in values if value is not None]
    return statistics.median(values) if values else None


def title(mode, calls):
    if mode == "flood":
        return f"flood, {calls} connections"
    return f"{calls:,} calls"


def show(value, form, unit=""):
    return "–" if value is None else format(value, form) + unit


def table(rows):
    """Markdown: a table for each number of calls, medians of the rounds."""
    text = []
    for (mode, calls), group in groups(rows).items():
        text += [f"### {title(mode, calls)}", ""]
        head = ["server", "rounds (void)", "CPU a frame", "kernel workers' part", "× floor"]
        head += ["× fastwebsockets", "× plain", "of a core"]
        if mode == "flood":
            head += ["frames a second"]
        else:
            head += ["ACK p50", "p99", "p99.9", "memory a call"]
        head += ["system calls a frame", "steal", "generator's core"]
        head += [] if mode == "flood" else ["send lag p99.9"]
        text += ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
        text += [line(mode, server, of_server) for server, of_server in group.items()]
        text += ["", *remarks(group)]
    return "\n".join(text)


def line(mode, server, rows):
    of = lambda key, scale=1: middle(rows, lambda r: scaled(r.get(key), scale))
    void = sum(1 for row in rows if row["void"])
    cells = [server, f"{len(rows)} ({void})", show(of("cpu_ns_per_frame", 1e-3), ".2f", " µs")]
    cells += [show(of("workers_ns_per_frame", 1e-3), ".2f", " µs")]
    cells += [show(of("floor_ratio"), ".2f"), show(of("fastwebsockets_ratio"), ".2f")]
    cells += [show(of("plain_ratio") if "-wss" in server else None, ".2f")]
    cells += [show(of("server_percent"), ".0f", " %")]
    if mode == "flood":
        cells += [show(of("frames_per_second"), ",.0f")]
    else:
        for index in range(3):
            cells += [show(middle(rows, lambda r: r["ack_ms"][index]), ".3g", " ms")]
        cells += [show(of("memory_per_call", 1 / 1024), ".1f", " KiB")]
    cells += [show(of("system_calls_per_frame"), ".3f"), show(of("steal_percent"), ".1f", " %")]
    cells += [show(of("generator_percent"), ".0f", " %")]
    cells += [] if mode == "flood" else [show(of("sendlag_p999_ms"), ".1f", " ms")]
    return "| " + " | ".join(cells) + " |"


def scaled(value, scale):
    return None if value is None else value * scale


def remarks(group):
    """A line for each row that is void or doubtful."""
    found = []
    for server, rows in group.items():
        for row in rows:
            where = f"{server}, round {row['round'] + 1}"
            if row["void"]:
                found.append(f"- **void**: {where}: {row['void']}.")
            found += [f"- generator late: {where}: {note}." for note in row["notes"]]
            if row["mode"] == "realtime" and row["server_percent"] > CORE_PERCENT_MAX:
                found.append(f"- one core was not enough: {where}: a frame costs more than shown.")
            if (row["others_percent"] or 0) > OTHERS_PERCENT_MAX:
                percent = row["others_percent"]
                found.append(f"- disturbed: {where}: others had {percent:.0f} % of its CPU.")
    return [*found, ""] if found else []


def chart(rows, subtitle):
    """SVG: a bar for each server, grouped by number of calls; CPU a frame, medians."""
    body, y, highest = [], 58, 0
    for group in groups(rows).values():
        costs = [middle(of, lambda r: r["cpu_ns_per_frame"]) for of in group.values()]
        highest = max([highest, *(cost for cost in costs if cost)])
    for (mode, calls), group in groups(rows).items():
        y += 10
        body.append(f'<text class="head" x="12" y="{y + 12}">{title(mode, calls)}</text>')
        y += 22
        for server, of in group.items():
            body += bar(server, of, y, highest)
            y += BAR_HEIGHT + GAP
    style = (
        "text{font:12px system-ui,sans-serif;fill:#1f2328}.head{font-weight:600}"
        ".small{font-size:11px;fill:#59636e}.node{fill:#1a7f5a}.floor{fill:#8c959f}"
        ".peer{fill:#8a63d2}@media(prefers-color-scheme:dark){text{fill:#e6edf3}"
        ".small{fill:#9198a1}.node{fill:#3fb68b}.floor{fill:#6e7681}.peer{fill:#a98bea}}"
    )
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{y + 12}" '
        f'viewBox="0 0 {WIDTH} {y + 12}" role="img" aria-label="CPU of a server per audio frame">',
        f"<style>{style}</style>",
        '<text class="head" x="12" y="22">CPU of a server per audio frame, µs '
        "(× the floor's); shorter is better</text>",
        f'<text class="small" x="12" y="42">{escape(subtitle)}</text>',
        *body,
        "</svg>",
        "",
    ])


def bar(server, rows, y, highest):
    cost = middle(rows, lambda r: r["cpu_ns_per_frame"])
    ratio = middle(rows, lambda r: r["floor_ratio"])
    kind = "floor" if server == "floor" else "node" if server.startswith("node-") else "peer"
    kind = "peer" if server == "node-ws" else kind
    middle_y = y + 12
    label = f'<text x="{LEFT - 8}" y="{middle_y}" text-anchor="end">{escape(server)}</text>'
    if cost is None:
        reason = rows[0]["void"] if rows[0]["void"] else "no figure"
        text = f"void: {reason}"[:90]
        return [label, f'<text class="small" x="{LEFT}" y="{middle_y}">{escape(text)}</text>']
    width = max(1, round(BAR_WIDTH_MAX * cost / highest))
    value = f"{cost / 1000:.1f}" + (f"  (× {ratio:.2f})" if ratio else "")
    return [
        label,
        f'<rect class="{kind}" x="{LEFT}" y="{y}" width="{width}" height="{BAR_HEIGHT}" rx="2"/>',
        f'<text x="{LEFT + width + 8}" y="{middle_y}">{value}</text>',
    ]


def row_line(row):
    """A row as it is printed during the run."""
    text = f"{title(row['mode'], row['calls'])}, round {row['round'] + 1}, {row['server']}: "
    text += show(scaled(row["cpu_ns_per_frame"], 1e-3), ".2f", " µs a frame")
    text += f" ({row['server_percent']:.0f} % of a core)"
    if row.get("ack_ms"):
        text += f", ACK p50 {row['ack_ms'][0]:.1f} p99 {row['ack_ms'][1]:.1f} ms"
    if row.get("frames_per_second"):
        text += f", {row['frames_per_second']:,.0f} frames a second"
    text += f", {show(row['system_calls_per_frame'], '.3f')} system calls a frame"
    return text + (f"; VOID: {row['void']}" if row["void"] else "")
