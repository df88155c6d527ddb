"""python -m ekd.export run=RUN format=hf|gguf|ollama: a run's student as a folder or file that others can load."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

from omegaconf import DictConfig

from ekd.cli.door import door
from ekd.export.formats import (
    DTYPES,
    FORMATS,
    OUTTYPES,
    check_code,
    find,
    finished_run,
    write_gguf,
    write_hf,
    write_ollama,
)
from ekd.export.push import check_push, push
from ekd.files import make_folder


def main(config: DictConfig) -> int:
    run, made = finished_run(config.run)
    for key, allowed in (("format", FORMATS), ("outtype", OUTTYPES), ("dtype", DTYPES)):
        if config[key] not in allowed:
            raise ValueError(f"{key} is one of {', '.join(str(a or 'null') for a in allowed)}, not {config[key]!r}")
    if config.push is not None:
        check_push(str(config.push))
    elif config.public:
        raise ValueError("public=true is said of a repository on a hub: give push=USER/NAME, too")
    converter = None if config.format == "hf" else find(config.converter)
    if config.format != "hf":
        check_code(run / "student")
    out = Path(config.out or run / "export" / config.format).expanduser()
    if out.exists() and any(out.iterdir()):
        raise ValueError(f"{out} is there already and not empty; give another folder as out=")
    name = re.sub(r"[^a-z0-9._-]+", "-", (config.name or run.resolve().name).lower()).strip("-.")
    if not name:
        raise ValueError(f"name={config.name or run.name} leaves no letter, digit or . _ -: give another name=")
    student = partial(write_hf, run / "student", dtype=config.dtype, name=name, made=made)
    if converter is None:
        make_folder(out, student)
    elif config.format == "gguf":
        make_folder(out, partial(write_gguf, student, converter, f"{name}.gguf", config.outtype))
    else:
        make_folder(out, partial(write_ollama, student, converter, f"{name}.gguf", config.outtype, made))
    print(f"written     {out}")
    if config.push is not None:
        print(f"pushed      {push(out, str(config.push), private=not config.public)}")
    if config.format == "ollama":
        print(f"serve it    ollama create {name} -f {out / 'Modelfile'} && ollama run {name}")
    return 0


if __name__ == "__main__":
    door("export", main)
