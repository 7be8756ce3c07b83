#!/usr/bin/env python3
"""Runs a command under the seccomp profile of this directory, without a container.

    python3 tuning/try-seccomp.py target/debug/exo-ingest dev

It makes the filter that a container runtime makes from the profile: for this machine, and without
libseccomp. --forbid NAME takes a system call out of the profile. It needs Linux on x86-64 or ARM64,
and cc for the numbers of the system calls.
"""

import argparse
import ctypes
import json
import os
import platform
import re
import struct
import subprocess
import sys
from pathlib import Path

# Instructions of classic BPF (linux/bpf_common.h): load a word, and with a constant, compare,
# return.
LOAD, AND, JUMP_EQUAL, RETURN = 0x20, 0x54, 0x15, 0x06
# Where struct seccomp_data has the number of the call, the architecture, and the arguments.
NUMBER, ARCHITECTURE, ARGUMENTS = 0, 4, 16
# What a filter returns (linux/seccomp.h). ERRNO has the error number in its lower half.
ALLOW, ERRNO, KILL = 0x7FFF0000, 0x00050000, 0x80000000
# AUDIT_ARCH_* (linux/audit.h) by the machine's name.
MACHINES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
SET_NO_NEW_PRIVILEGES, SET_SECCOMP, FILTER = 38, 22, 2


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    profile = Path(__file__).with_name("seccomp.json")
    parser.add_argument("--profile", type=Path, default=profile, help="another profile")
    parser.add_argument("--forbid", action="append", default=[], metavar="NAME")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    arguments = parser.parse_args()
    if not arguments.command:
        parser.error("give a command to run")
    if platform.machine() not in MACHINES:
        sys.exit(f"try-seccomp.py: no filter for {platform.machine()}")
    profile = json.loads(arguments.profile.read_text())
    for rule in profile["syscalls"]:
        rule["names"] = [name for name in rule["names"] if name not in arguments.forbid]
    install(program(profile, numbers()))
    os.execvp(arguments.command[0], arguments.command)


def numbers():
    """The number of each system call of this machine, by name."""
    macros = subprocess.run(
        ["cc", "-E", "-dM", "-include", "sys/syscall.h", "-x", "c", os.devnull],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    found = re.findall(r"^#define __NR_(\w+) (\d+)$", macros, re.M)
    return {name: int(number) for name, number in found}


def program(profile, numbers):
    """The filter: each rule is compared in turn, and the first one that fits decides."""
    code = [(LOAD, 0, 0, ARCHITECTURE), (JUMP_EQUAL, 1, 0, MACHINES[platform.machine()])]
    code += [(RETURN, 0, 0, KILL), (LOAD, 0, 0, NUMBER)]
    for rule in profile["syscalls"]:
        for name in rule["names"]:
            # Some names are those of another machine.
            if name in numbers:
                code += one_rule(numbers[name], rule)
    return code + [(RETURN, 0, 0, action(profile["defaultAction"], profile["defaultErrnoRet"]))]


def one_rule(number, rule):
    result = (RETURN, 0, 0, action(rule["action"], rule.get("errnoRet", 1)))
    if "args" not in rule:
        return [(JUMP_EQUAL, 0, 1, number), result]
    (condition,) = rule["args"]
    # The lower half of the argument is enough: these arguments are smaller.
    body = [(LOAD, 0, 0, ARGUMENTS + 8 * condition["index"])]
    if condition["op"] == "SCMP_CMP_MASKED_EQ":
        body += [(AND, 0, 0, condition["value"]), (JUMP_EQUAL, 0, 1, condition["valueTwo"])]
    elif condition["op"] == "SCMP_CMP_EQ":
        body += [(JUMP_EQUAL, 0, 1, condition["value"])]
    else:
        sys.exit(f"try-seccomp.py: {condition['op']} is not supported")
    body += [result, (LOAD, 0, 0, NUMBER)]
    return [(JUMP_EQUAL, 0, len(body), number), *body]


def action(name, error):
    return {"SCMP_ACT_ALLOW": ALLOW, "SCMP_ACT_ERRNO": ERRNO | error}[name]


def install(code):
    """Puts the filter on this process. It stays on what this process becomes, and on children."""
    packed = b"".join(struct.pack("=HBBI", *instruction) for instruction in code)
    memory = ctypes.create_string_buffer(packed)
    # struct sock_fprog: the number of instructions, and where they are.
    header = struct.pack("@HP", len(code), ctypes.addressof(memory))
    libc = ctypes.CDLL(None, use_errno=True)
    for call in [(SET_NO_NEW_PRIVILEGES, 1, 0, 0, 0), (SET_SECCOMP, FILTER, header, 0, 0)]:
        if libc.prctl(*call) != 0:
            sys.exit(f"try-seccomp.py: no filter: {os.strerror(ctypes.get_errno())}")


if __name__ == "__main__":
    main()
