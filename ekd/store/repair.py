"""Find out what is wrong with a store, and save what can be saved."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from ekd.store import manifest as manifests
from ekd.store.invariants import check
from ekd.store.location import Location, check_link, digest_of, files_in, is_plain, location, move
from ekd.store.log import drop, whole_manifest
from ekd.store.origin import layout_of
from ekd.store.shard import PackedTrace, Shard
from ekd.store.store import lock, write_shard


class StoreFindings(NamedTuple):
    traces: int  # sound ones
    tokens: int  # their response tokens
    damage: list[str]  # one sentence each, naming the file and, where it can be told, the trace
    notes: list[str]  # harmless: unfinished files, shards that no manifest names


def verify(path: Location | str) -> StoreFindings:
    """Reads everything: checksums of files and traces, every invariant, duplicates, strangers in the folder.

    Raises ValueError when there is no manifest to go by.
    """
    folder = location(path)
    manifest = whole_manifest(folder)
    traces = tokens = 0
    damage: list[str] = []
    seen: set[str] = set()
    for entry in manifest["shards"]:
        damage += file_damage(folder, entry)
        for key, rows, wrong in shard_traces(folder, entry, manifest["origin"]):
            wrong = wrong or (f"trace {key} is there twice" if key in seen else "")
            seen.add(key)
            if wrong:
                damage.append(f"shard {entry['file']}: {wrong}")
            else:
                traces, tokens = traces + 1, tokens + rows
    named = {entry["file"] for entry in manifest["shards"]}
    strangers = sorted(file.name for file in (folder / "shards").iterdir() if file.name not in named)
    return StoreFindings(
        traces,
        tokens,
        damage,
        [f"{name} is not named yet (its writer is at work, or was killed)" for name in strangers],
    )


def file_damage(folder: Location, entry: dict[str, Any]) -> list[str]:
    file = folder / "shards" / entry["file"]
    try:
        check_link(file)
    except ValueError as error:
        return [f"shard {file.name}: {error}"]
    if not file.is_file():
        return [f"shard {file.name}: the file is missing; its {entry['traces']} traces are lost"]
    if file.stat().st_size != entry["bytes"]:
        return [f"shard {file.name}: {file.stat().st_size:,} bytes long, {entry['bytes']:,} were written"]
    return [] if digest_of(file) == entry["sha256"] else [f"shard {file.name}: its sha256 is not the manifest's"]


def shard_traces(folder: Location, entry: dict[str, Any], origin: dict[str, Any]) -> Iterator[tuple[str, int, str]]:
    """(key, response tokens, what is wrong or "") of every trace of a shard that can be opened."""
    layout = layout_of(origin)
    if not is_plain(folder / "shards" / entry["file"]):
        return  # `file_damage` says so
    try:
        shard = Shard(folder / "shards" / entry["file"], entry["bytes"])
    except ValueError as error:
        yield "", 0, str(error).removeprefix(f"shard {entry['file']} ")
        return
    for row, key in enumerate(shard.column("key")):
        try:
            trace = shard.trace(row, layout)
            check(trace, layout.vocab, layout.temperatures, layout.read)
            yield key, len(trace.response_ids), ""
        except ValueError as error:
            yield key, 0, str(error).removeprefix(f"shard {entry['file']}: ")


def repair(path: Location | str) -> list[str]:
    """Rebuild damaged manifest and logs, rewrite damaged shards with their sound traces, set damaged files aside.

    Returns what was done, a sentence each; lost traces are named. Raises ValueError for a store of a newer ekd.
    """
    folder = location(path)
    done: list[str] = []
    if not (folder / "shards").is_dir() and not (folder / "manifest.json").exists():  # before a lock is put there
        raise ValueError(
            f"{folder} is not a trace store (it has neither shards/ nor manifest.json); give the store's folder"
        )
    with lock(folder):
        try:
            manifest = whole_manifest(folder)
        except manifests.DamagedManifest:
            manifest = rebuilt(folder)
            done.append(f"the manifest was rebuilt from {len(manifest['shards'])} shards")
        broken = [entry for entry in manifest["shards"] if file_damage(folder, entry)]
        manifest["shards"] = [entry for entry in manifest["shards"] if entry not in broken]
        for entry in broken:
            sound, lost = salvage(folder, entry)
            if sound:
                manifest["shards"].append(write_shard(folder, sound, manifest["origin"]))
            done.append(f"shard {entry['file']}: {len(sound)} traces saved, lost: {', '.join(lost) or 'none'}")
        # The new shards are on disk, the old ones still are: nothing hangs on luck.
        manifests.write_manifest(folder, manifest)
        drop(folder)
        kept = {entry["file"] for entry in manifest["shards"]}  # one that was only too long is whole again by now
        for entry in broken:
            if entry["file"] not in kept:
                set_aside_shard(folder / "shards" / entry["file"])
    return done


def rebuilt(folder: Location) -> dict[str, Any]:
    """A manifest from what the shards themselves say."""
    manifest: dict[str, Any] | None = None
    for file in files_in(folder / "shards", "*.arrows"):
        if not is_plain(file) or not manifests.SHARD.fullmatch(file.name):
            continue
        try:
            shard = Shard(file)
        except ValueError:
            continue
        manifest = manifest or manifests.new(shard.origin)
        if shard.origin == manifest["origin"]:
            name = digest_of(file)
            entry = {"file": file.name, "sha256": name if name.startswith(file.stem) else file.stem}
            sizes = {"bytes": file.stat().st_size, "traces": len(shard), "tokens": sum(shard.column("response"))}
            manifest["shards"].append(entry | sizes)
    if manifest is None:
        raise ValueError(f"{folder} cannot be repaired: no shard in it can be read; trace again into another folder")
    return manifest


def salvage(folder: Location, entry: dict[str, Any]) -> tuple[list[PackedTrace], list[str]]:
    """The sound traces of a damaged shard, and the keys of the others (or how many, where no key can be read)."""
    try:
        shard = Shard(folder / "shards" / entry["file"], entry["bytes"])
    except ValueError as error:
        return [], [f"all {entry['traces']} ({error})"]
    bad, keys = shard.damaged(), shard.column("key")
    return [shard.part(row) for row in range(len(shard)) if row not in bad], [keys[row] for row in sorted(bad)]


def set_aside_shard(file: Location) -> None:
    if is_plain(file):
        move(file, file.parent.parent / "damaged")
