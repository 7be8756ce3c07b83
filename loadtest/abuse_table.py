"""Makes a Markdown table of the abuse.json files that loadtest/abuse.sh has written."""

import json
import sys
from pathlib import Path

HEAD = [
    "attack",
    "peers",
    "connections",
    "ended by the node",
    "after p50 / max",
    "ACK p50 ms",
    "ACK p99 ms",
    "ACK p99.9 ms",
    "new call max ms",
    "node CPU %",
    "node RSS MB",
    "failures",
    "verdict",
]


def ms(figures, name):
    return f"{figures[name] / 1e6:.1f}" if figures["count"] else "-"


def parts(result, cell):
    """A cell for each part: before, during, after."""
    return " / ".join(cell(result["phases"][part]) for part in ("before", "during", "after"))


def scaled(value, factor, pattern):
    return "-" if value is None else format(value / factor, pattern)


def row(result):
    endings = result["endings"]
    kinds = endings["endings"].items()
    main = max((figures for _, figures in kinds), key=lambda it: it["count"], default=None)
    times = "-"
    if main is not None:
        times = f"{main['after_p50_ns'] / 1e9:.2f} s / {main['after_max_ns'] / 1e9:.2f} s"
    phases = result["phases"].values()
    return [
        result["kind"],
        f"{result['peers']:,}",
        f"{endings['connections']:,}",
        ", ".join(f"{figures['count']:,} {name}" for name, figures in kinds),
        times,
        parts(result, lambda phase: ms(phase["ack_ns"], "p50")),
        parts(result, lambda phase: ms(phase["ack_ns"], "p99")),
        parts(result, lambda phase: ms(phase["ack_ns"], "p99.9")),
        parts(result, lambda phase: ms(phase["new_call_setup_ns"], "max")),
        parts(result, lambda phase: scaled(phase["node_cpu_percent"], 1, ".0f")),
        parts(result, lambda phase: scaled(phase["node_rss_bytes"], 1e6, ".0f")),
        f"{sum(phase['failures'] + len(phase['new_calls_failed']) for phase in phases):,}",
        result["verdict"],
    ]


def main():
    directory, *kinds = sys.argv[1:]
    results = [json.loads((Path(directory) / kind / "abuse.json").read_text()) for kind in kinds]
    environment = json.loads((Path(directory) / kinds[0] / "env.json").read_text())
    host = environment["host"]
    print(
        f"{results[0]['calls_live']:,} live calls. {host['cpu_model']}, {host['cores']} cores, "
        f"kernel {host['kernel']}. Node: {environment['note']}; {environment['program']}."
    )
    print("Figures with slashes: before / during / after the attack.\n")
    for cells in [HEAD, ["---"] * len(HEAD), *map(row, results)]:
        print("| " + " | ".join(cells) + " |")


main()
