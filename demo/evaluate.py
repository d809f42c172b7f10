"""`python -m demo.evaluate`: exact-match rates per skill on held-out cases, greedy.

Through plain transformers by default, or through a running OpenAI-style server with `--base-url`. `--json` keeps every
reply; `--compare` sets two such files side by side, case by case.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from pathlib import Path

from demo.answers import Reply, is_right, loops
from demo.data.core import Case
from demo.data.mix import evaluation_cases
from demo.render import MODEL_DIR

STORY_SKILL = "stories"
STORY_TOKENS = 300
MAX_ANSWER_TOKENS = 200
BARS = {
    "copying": 0.95,
    "facts": 0.95,
    "memory": 0.95,
    "JSON extraction": 0.95,
    "JSON lists": 0.95,
    "tool call": 0.95,
    "several tool calls": 0.95,
}
OTHER_BAR = 0.85


def table(results: list[tuple[Case, bool]]) -> str:
    """One row per skill: share of right answers, cases, bar, and whether it is met."""
    by_skill: dict[str, list[bool]] = defaultdict(list)
    for case, right in results:
        by_skill[case.skill].append(right)
    lines = ["| skill | right | cases | bar | |", "|---|---:|---:|---:|---|"]
    for skill, rights in by_skill.items():
        share, bar = sum(rights) / len(rights), BARS.get(skill, OTHER_BAR)
        lines.append(
            f"| {skill} | {share:.1%} | {len(rights)} | {bar:.0%} | {'' if share >= bar else 'below'} |"
        )
    return "\n".join(lines)


def judge(case: Case, reply: Reply) -> bool:
    """Stories are sampled and only have to go on without a loop; all else must match."""
    return not loops(reply.content.split()) if case.skill == STORY_SKILL else is_right(case, reply)


def compare(one: Path, other: Path) -> str:
    """Case by case: how many replies of two result files agree, and the first that do not. Sampled stories are left out."""
    first, second = (json.loads(path.read_text()) for path in (one, other))
    pairs = [(a, b) for a, b in zip(first, second, strict=True) if a["skill"] != STORY_SKILL]
    if any(a["key"] != b["key"] or a["messages"] != b["messages"] for a, b in pairs):
        raise SystemExit("the two files hold different cases: use the same --seed and --cases for both")
    different = [(a, b) for a, b in pairs if a["reply"] != b["reply"]]
    lines = [f"{len(pairs) - len(different)} of {len(pairs)} replies are the same"]
    lines += [f"{a['skill']}: {a['reply']} / {b['reply']}" for a, b in different[:20]]
    return "\n".join(lines)


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m demo.evaluate", description=__doc__)
    parser.add_argument("--model_dir", type=Path, default=MODEL_DIR)
    parser.add_argument("--base-url", help="ask this OpenAI-style server (…/v1) instead of transformers")
    parser.add_argument("--model", default=None, help="model name at the server; its first one unless given")
    parser.add_argument("--api-key", default="none")
    parser.add_argument("--clients", type=int, default=8, help="requests in flight at the server")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cases", type=int, default=16, help="per generator; a skill may have several")
    parser.add_argument("--skills", help="only skills whose name contains this")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--json", type=Path, help="write every reply to this file")
    parser.add_argument(
        "--compare",
        type=Path,
        metavar="FILE",
        help="compare the replies with those of an earlier --json FILE",
    )
    parser.add_argument("--show-wrong", type=int, default=0, metavar="N", help="print up to N wrong replies")
    args = parser.parse_args(argv)
    if args.compare and not args.json:
        parser.error("--compare needs --json, the file to compare with it")
    return args


def main() -> None:
    args = parse_arguments()
    cases = [
        case
        for case in evaluation_cases(args.seed, args.cases)
        if not args.skills or args.skills in case.skill
    ]
    if args.base_url:
        from demo.through_server import replies
    else:
        from demo.through_transformers import replies
    got = replies(cases, args)
    results = [(case, judge(case, reply)) for case, reply in zip(cases, got, strict=True)]
    print(table(results))
    wrong = [(case, reply) for (case, right), reply in zip(results, got, strict=True) if not right]
    for case, reply in wrong[: args.show_wrong]:
        print(
            f"\n{case.skill}: {case.messages[-1]['content'][-300:]!r}\n  wanted {case.answer!r}\n  got    {reply}"
        )
    if args.json:
        rows = [
            {
                "skill": case.skill,
                "key": case.key,
                "messages": case.messages,
                "right": right,
                "reply": reply.as_json(),
            }
            for (case, right), reply in zip(results, got, strict=True)
        ]
        args.json.write_text(json.dumps(rows, ensure_ascii=False, indent=1))
    if args.compare:
        print(compare(args.compare, args.json))


if __name__ == "__main__":
    main()
