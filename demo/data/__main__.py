"""`python -m demo.data --seed 0 --samples 20`: prints training (or evaluation) cases to look at."""

from __future__ import annotations

import argparse
import itertools
import json

from demo.data.core import Case
from demo.data.mix import evaluation_cases, training_cases


def show(case: Case) -> str:
    lines = [f"== {case.skill}  key={case.key}"]
    lines += [f"tool: {json.dumps(tool, ensure_ascii=False)}" for tool in case.tools]
    lines += [
        f"{message['role']}: {message.get('content') or json.dumps(message, ensure_ascii=False)}"
        for message in case.messages
    ]
    if case.thought is not None:
        lines.append(f"(thinks: {case.thought})")
    return "\n".join([*lines, f"-> {case.answer}"])


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m demo.data", description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--samples", type=int, default=20, help="training cases, or evaluation cases per skill"
    )
    parser.add_argument("--held-out", action="store_true", help="show evaluation cases instead")
    args = parser.parse_args()
    cases = (
        evaluation_cases(args.seed, args.samples)
        if args.held_out
        else itertools.islice(training_cases(args.seed), args.samples)
    )
    for case in cases:
        print(show(case), end="\n\n")


if __name__ == "__main__":
    main()
