"""The report of handover.py: handover.md from handover.json."""

import json
import statistics
from pathlib import Path

import sinks

MB = 1e6


def write(out):
    """Writes handover.md into the directory of a run."""
    report = json.loads((Path(out) / "handover.json").read_text())
    parts = ["# The hand-over, measured"]
    for name, make in (("cost", cost), ("sustain", sustain), ("catchup", catchup)):
        if name in report:
            part = report[name]
            parts += ["\n".join(make(part)), f"```sh\n{part['command']}\n```", part["machine"]]
    (Path(out) / "handover.md").write_text("\n\n".join(parts) + "\n")


# --- Cost ---------------------------------------------------------------------------------------


def cost(part):
    runs = part["runs"]
    names = [name for name in sinks.SINKS if any(run["sink"] == name for run in runs)]
    of = lambda name: [run for run in runs if run["sink"] == name]
    base = {run["round"]: run["shard_us"] for run in of("none")}
    how = "`exo-ingest ship`, after the calls" if part["offline"] else "the node, beside the calls"
    lines = [
        f"## CPU time for each 9,600 bytes, at {part['calls']:,} calls",
        "",
        f"Medians of the rounds. The audio was handed over by {how}. *Against no sink* is the "
        "median of the ratios of each round, with the lowest and the highest. *Of a core, idle* is "
        "what the servers take without calls; it is in *server*, too.",
        "",
        "| sink | runs (valid) | shard | against no sink | forwarder | server | of a core, idle | "
        "bytes written per byte | ACK p50 | p99 |",
        "|" + " --- |" * 10,
    ]
    for name in names:
        group = of(name)
        ratios = [
            run["shard_us"] / base[run["round"]] for run in group
            if name != "none" and run["round"] in base
        ]
        valid = sum(run["load"]["verdict"] == "pass" for run in group)
        lines.append(
            f"| {sinks.SINKS[name]} | {len(group)} ({valid}) | "
            f"{figure(middle(group, 'shard_us'), ' µs')} | {spread(ratios)} | "
            f"{figure(middle(group, 'forwarder_us'), ' µs')} | "
            f"{figure(middle(group, 'server_us'), ' µs')} | "
            f"{figure(middle(group, 'server_idle_percent') if has_server(name) else None, ' %')} | "
            f"{figure(middle(group, 'written_per_byte') if has_server(name) else None, '')} | "
            + " | ".join(
                f"{statistics.median(run['load']['ack_ms'][index] for run in group):.3g} ms"
                for index in (0, 1)
            )
            + " |"
        )
    if len(base) > 1:
        noise = max(base.values()) / min(base.values())
        lines += [
            "",
            f"The rounds without a sink differ by a factor of {noise:.2f} among themselves: a "
            "ratio nearer to 1 than that is not measurable here.",
        ]
    return lines + invalid(runs)


def middle(runs, name):
    values = [run[name] for run in runs if run[name] is not None]
    return statistics.median(values) if values else None


def has_server(name):
    return name not in ("none", "directory")


def figure(value, unit):
    """A number with three digits, or nothing."""
    return "" if value is None else f"{value:.3g}{unit}"


def spread(ratios):
    if not ratios:
        return ""
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


def invalid(runs):
    """Why runs did not pass. Nothing is left out of the medians."""
    told = []
    for run in runs:
        if run["load"]["verdict"] != "pass":
            why = "; ".join(run["load"]["why"]) or "see its result.json"
            told.append(f"- {run['sink']}, round {run['round']}: {run['load']['verdict']}: {why}")
    return ["", "Runs that did not pass, which the medians hold too:", "", *told] if told else []


def cost_line(run):
    load = run["load"]
    return (
        f"cost {run['sink']} #{run['round']}: {load['verdict']}, shard {run['shard_us']:.1f} µs, "
        f"forwarder {figure(run['forwarder_us'], ' µs') or '-'}, "
        f"server {figure(run['server_us'], ' µs') or '-'} for 9,600 bytes, "
        f"{run['frames_handed_over']:.0f} frames handed over, "
        f"send lag p99.9 {load['sendlag_p999_ms']:.1f} ms"
    )


# --- Sustained calls ----------------------------------------------------------------------------


def sustain(part):
    steps = sorted(part["steps"], key=lambda step: step["calls"])
    lines = [
        f"## Sustained calls: {sinks.SINKS[part['sink']]}",
        "",
        f"{part['sustained']:,} calls were sustained: {part['ended']}.{sending(part)}",
        "",
        "| calls | exo-load | lag at the end | growth a second | into the journal | "
        "into the sink | shard | forwarder | server | exo-load's CPU | send lag p99.9 | "
        "disk busy | ACK p99 |",
        "|" + " --- |" * 13,
    ]
    for step in steps:
        use, load = step["use"], step["load"]
        lines.append(
            f"| {step['calls']:,} | {load['verdict']} | {step['lag_bytes'] / MB:.0f} MB, "
            f"{step['lag_seconds']:.1f} s | {step['lag_growth'] / MB:.1f} MB | "
            f"{use['journal_rate'] / MB:.0f} MB/s | {use['acknowledged_rate'] / MB:.0f} MB/s | "
            f"{use['shards_percent']:.0f} % | {use['forwarder_percent']:.0f} % | "
            f"{use['server_percent']:.0f} % | {load['generator_percent']:.0f} % | "
            f"{load['sendlag_p999_ms']:.1f} ms | "
            f"{use['disk_percent']:.0f} % | {load['ack_ms'][1]:.3g} ms |"
        )
    stopped = [step for step in steps if not step["is_sustained"]]
    if stopped:
        lines += ["", f"What stopped it, at {stopped[0]['calls']:,} calls: {stop(stopped[0])}"]
    return lines


def sending(part):
    """How late exo-load may have sent. Older results do not say it."""
    if not part.get("sendlag_max"):
        return ""
    return (
        f" exo-load may send its frames up to {part['sendlag_max']} late (p99.9), since it shares "
        "a core with the store: what is asked here is whether the sink keeps up."
    )


def stop(step):
    """Why a step was too much: what failed, and which resource was full."""
    use, load, told = step["use"], step["load"], []
    if step["lag_grows"]:
        told.append(f"the lag grew by {step['lag_growth'] / MB:.1f} MB a second")
    if load["verdict"] != "pass":
        told.append(f"the verdict of exo-load is {load['verdict']}: {'; '.join(load['why'])}")
    if not told:
        told.append("the sink failed")
    full = [
        f"CPU {cpu} was {percent:.0f} % busy"
        for cpu, percent in enumerate(use["cpu_percent"]) if percent >= 90
    ]
    if use["disk_percent"] >= 90:
        full.append(
            f"the disk was {use['disk_percent']:.0f} % busy with "
            f"{use['disk_rate'] / MB:.0f} MB/s of writes"
        )
    parts = {
        "shards": use["shards_percent"],
        "forwarder": use["forwarder_percent"],
        "server": use["server_percent"],
        "exo-load": load["generator_percent"],
    }
    # The kernel's own threads, other threads of the node, and programs that are none of ours.
    parts["everything else"] = max(0.0, sum(use["cpu_percent"]) - sum(parts.values()))
    users = ", ".join(f"{name} {percent:.0f} %" for name, percent in parts.items()) + " of a core"
    full = " and ".join(full) if full else (
        f"no CPU was 90 % busy, nor the disk (at most {max(use['cpu_percent']):.0f} % and "
        f"{use['disk_percent']:.0f} %): requests waited for each other"
    )
    return f"{capital(' and '.join(told))}. {capital(full)}: {users}."


def capital(text):
    return text[0].upper() + text[1:]


def step_line(step):
    verdict = "sustained" if step["is_sustained"] else stop(step).rstrip(".")
    return f"sustain {step['calls']} calls: {verdict}. Lag {step['lag_bytes'] / MB:.0f} MB."


# --- Catch-up -----------------------------------------------------------------------------------


def catchup(part):
    incoming, rate = part["incoming"], part["rate"]
    lines = [
        f"## An outage of {part['outage']:.0f} s at {part['calls']:,} calls: "
        f"{sinks.SINKS[part['sink']]}",
        "",
        "The servers stood still (SIGSTOP) while calls went on. Caught up means that the lag is at "
        "most what it was before the outage, and one second of audio.",
        "",
        "| figure | value |",
        "| --- | --- |",
        f"| audio that comes in, with its headers | {incoming / MB:.1f} MB/s |",
        f"| waiting at the end of the outage | {part['waiting'] / MB:.0f} MB |",
        f"| nothing was acknowledged after it for | {seconds(part['first_after'])} |",
        f"| taken from then on | {'' if rate is None else f'{rate / MB:.1f} MB/s'} |",
        f"| against real time | {'' if rate is None else f'{rate / incoming:.2f} times'} |",
        f"| caught up after | {seconds(part['caught_up_after'])} |",
        f"| exo-load | {part['load']['verdict']}, {part['load']['failed']} calls failed |",
    ]
    if part["use"]:
        use = part["use"]
        lines += [
            f"| CPU while it catches up, of a core | shard {use['shards_percent']:.0f} %, "
            f"forwarder {use['forwarder_percent']:.0f} %, server {use['server_percent']:.0f} % |",
        ]
    lines += [
        "",
        "| ACKs of live calls | p99 of a second, median | worst | slowest ACK |",
        "| --- | --- | --- | --- |",
    ]
    for phase, figures in part["ack_ms"].items():
        cells = " | ".join(f"{value:.3g} ms" for value in figures or []) or " | | "
        lines.append(f"| {phase} | {cells} |")
    if part["load"]["why"]:
        lines += ["", "exo-load says: " + "; ".join(part["load"]["why"]) + "."]
    return lines


def seconds(value):
    return "not within the run" if value is None else f"{value:.1f} s"


def catchup_line(part):
    return (
        f"catchup: {part['waiting'] / MB:.0f} MB waited, nothing acknowledged for "
        f"{seconds(part['first_after'])}, caught up after {seconds(part['caught_up_after'])}, "
        f"at {(part['rate'] or 0) / MB:.1f} MB/s; exo-load: {part['load']['verdict']}"
    )
