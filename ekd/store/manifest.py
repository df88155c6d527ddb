"""The manifest: what made a store, and its shards but for those that `ekd.store.log` adds. Always whole."""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any

from ekd.store.location import Location, check_link, put

VERSION = 1
NAME = "manifest.json"
SHARD = re.compile(r"[0-9a-f]{24}\.arrows")
LARGEST = 1 << 32  # bytes of a shard: far above any that is written; a cut one is read into memory of its full size
PARTS = (
    NAME,
    f"{NAME}.tmp",
    "shards",
    "damaged",
    "scores",
    "unsaved",
    "writers",
    "log",
    "lock",
    ".collecting.lock",
)  # of a store's folder


class DamagedManifest(ValueError):
    """A manifest that cannot be trusted, where a rebuilt one could be."""


def new(origin: dict[str, Any]) -> dict[str, Any]:
    return {"format": "ekd-store", "version": VERSION, "origin": origin, "shards": []}


def check_folder(folder: Location) -> None:
    """Raises ValueError, one sentence, where a part of a store is a link or a device: it leads elsewhere."""
    for part in PARTS:
        check_link(folder / part)


def read_manifest(folder: Location) -> dict[str, Any]:
    """Raises ValueError, one sentence, for what is not a manifest, is damaged, or is newer than this program."""
    path = folder / NAME
    check_folder(folder)
    try:
        manifest = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        if any((folder / "shards").glob("*.arrows")):
            raise damaged(path, "it is missing") from None
        raise ValueError(f"{folder} is not a trace store: it has no {NAME}") from None
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise damaged(path, str(error)) from None
    if not isinstance(manifest, dict) or manifest.get("format") != "ekd-store":
        raise ValueError(f"{path} is not the manifest of a trace store: its format is not 'ekd-store'")
    if not isinstance(manifest.get("version"), int):
        raise damaged(path, "it has no version")
    if manifest["version"] > VERSION:
        raise ValueError(
            f"{folder} was written by a newer ekd (store version {manifest['version']}, this ekd reads up to "
            f"{VERSION}): update ekd, or export the store with the ekd that made it"
        )
    if manifest.pop("checksum", None) != checksum(manifest):
        raise damaged(path, "its checksum does not match")
    if why := strange(manifest):
        raise damaged(path, why)
    return manifest


def strange(manifest: dict[str, Any]) -> str:
    """What a stranger may have written into a manifest whose checksum is right; "" for nothing."""
    origin, shards = manifest.get("origin"), manifest.get("shards")
    if not isinstance(origin, dict) or not isinstance(shards, list):
        return "it has no origin or no list of shards"
    return next((why for why in map(strange_shard, shards) if why), "")


def strange_shard(shard: object) -> str:
    """What is wrong with what is said of a shard; "" for nothing."""
    if not isinstance(shard, dict) or not SHARD.fullmatch(str(shard.get("file"))):
        return f"it names {shard!r} where a shard of the store is named 24 hexadecimal digits and .arrows"
    sizes = [shard.get(name) for name in ("bytes", "traces", "tokens")]
    if not isinstance(shard.get("sha256"), str) or not all(isinstance(n, int) and 0 <= n < LARGEST for n in sizes):
        return f"of shard {shard['file']} it says no size, number or sha256"
    keys = shard.get("keys", [])
    if not isinstance(keys, list) or len(keys) not in (0, shard["traces"]) or not all(isinstance(k, str) for k in keys):
        return f"of shard {shard['file']} it names other keys than those of its traces"
    return ""


def write_manifest(folder: Location, manifest: dict[str, Any]) -> None:
    whole = {**manifest, "checksum": checksum(manifest)}
    put(folder / NAME, json.dumps(whole, indent=1, ensure_ascii=False).encode())


def checksum(manifest: dict[str, Any]) -> str:
    plain = json.dumps(manifest, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(plain.encode()).hexdigest()


def damaged(path: Location, why: str) -> DamagedManifest:
    return DamagedManifest(
        f"{path} is damaged ({why}): `python -m ekd.store repair {path.parent}` rebuilds it from the shards"
    )
