"""The slow Llama tokenizer of the published weights as a `tokenizer.json` that stock AutoTokenizer reads.

It is rebuilt from `tokenizer.model`. The merges are all pairs of tokens whose concatenation is a token, by
descending score of the result, then by the left id, then by the right id. Bytes are the fallback, and each segment
between special tokens begins with ▁ (Kudo & Richardson 2018, BPE with scores).
With `legacy: false`, text directly after a special token loses its first ▁ again: `</s>USER:` becomes `US`, `ER:`,
as in the slow tokenizer of transformers 4.31.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from vhm.data.records import IMAGE_MARKER
from vhm.errors import CheckpointError
from vhm.io import read_json_object

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

SPECIALS = ("<unk>", "<s>", "</s>")


def llama_tokenizer(source: Path) -> PreTrainedTokenizerFast:
    """Return the tokenizer of `source`/tokenizer.model, with `<image>` added as its last token.

    `legacy` is read from tokenizer_config.json in the same directory; the default is true, as in 4.31.
    """
    settings = source / "tokenizer_config.json"
    legacy = read_json_object(settings).get("legacy", True) if settings.is_file() else True
    return from_pieces(read_pieces(source / "tokenizer.model"), legacy=legacy is not False)


def read_pieces(path: Path) -> list[tuple[str, float]]:
    """Return the (token, score) pairs of a sentencepiece model file in the order of their ids."""
    from google.protobuf.message import DecodeError
    from transformers.utils import sentencepiece_model_pb2_new as sentencepiece_model_pb2

    model = sentencepiece_model_pb2.ModelProto()
    try:
        model.ParseFromString(path.read_bytes())
    except (OSError, DecodeError) as error:
        raise CheckpointError(f"{path} is not a sentencepiece model ({error})") from None
    return [(piece.piece, piece.score) for piece in model.pieces]


def from_pieces(pieces: list[tuple[str, float]], legacy: bool) -> PreTrainedTokenizerFast:
    """Build the tokenizer of (token, score) pairs that are in the order of their ids."""
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

    vocabulary = {piece: index for index, (piece, _) in enumerate(pieces)}
    tokenizer = Tokenizer(
        models.BPE(vocabulary, _merges(pieces, vocabulary), unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    )
    spaces = normalizers.Replace(" ", "▁")
    if legacy:
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), spaces])
    else:
        start = normalizers.Replace(Regex(r"\A(?!USER:)(?=[\s\S])"), "▁")
        tokenizer.normalizer = normalizers.Sequence([start, spaces])
        tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"\AUS(?=ER:)"), "isolated")
    return as_llama(tokenizer)


def as_llama(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    """Give a BPE tokenizer Llama's decoder and special tokens, and add `<image>` as its last token."""
    from tokenizers import AddedToken, decoders
    from transformers import PreTrainedTokenizerFast

    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in (*SPECIALS, IMAGE_MARKER)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="<unk>",
        extra_special_tokens={"image_token": IMAGE_MARKER},
        model_max_length=2048,
        padding_side="right",
        clean_up_tokenization_spaces=False,
    )


def _merges(pieces: list[tuple[str, float]], vocabulary: dict[str, int]) -> list[tuple[str, str]]:
    merges = []
    for piece, score in pieces:
        if piece in SPECIALS or (piece.startswith("<0x") and piece.endswith(">")):
            continue
        for split in range(1, len(piece)):
            left, right = piece[:split], piece[split:]
            if left in vocabulary and right in vocabulary:
                merges.append((-score, vocabulary[left], vocabulary[right], left, right))
    return [(left, right) for *_, left, right in sorted(merges)]
