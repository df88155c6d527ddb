"""python -m ekd.trace: collect traces into a store, without training."""

from __future__ import annotations

from omegaconf import DictConfig

from ekd.cli.door import build, door
from ekd.outside import visible


def main(config: DictConfig) -> int:
    data = build(config.data)
    data.prepare_data()
    data.setup("trace")
    tokens = sum(response for _, response in data.store.lengths().values())
    made = sum(collected.made for collected in data.collected.values())
    print(f"\n{made} traces made; {len(data.store)} in the store, {tokens:,} response tokens: {data.store.path}")
    failed = [failure for collected in data.collected.values() for failure in collected.failures]
    for failure in failed:
        print(visible(f"failed: problem {failure.problem_id}: {failure.reason}"))
    if failed:
        print(f"{len(failed)} problems failed; the same command asks for them again")
    return 1 if failed else 0


if __name__ == "__main__":
    door("trace", main)
