"""Words of the report: what a reject reason or a finding means and what to do about it, and text of records made safe.

Text of records is hostile: it may contain markup (the template escapes it), characters that reorder or hide other
text, and megabytes of it (`shown` handles both).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from vhm.data.records import REASONS
from vhm.data.validation.findings import FindingKind

# Control and format characters other than tab and line feed, separators of lines and paragraphs, lone surrogates,
# byte order marks and tags: they move, hide or break the text around them.
_INVISIBLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u061c\u115f\u1160\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\u3164"
    "\ud800-\udfff\ufeff\uffa0\ufff0-\ufffb\U000e0000-\U000e007f]"
)


@dataclass(frozen=True)
class FindingWords:
    """`title` names the finding, `meaning` explains it, `advice` is what the provider of the data should do."""

    title: str
    meaning: str
    advice: str


def shown(text: str, limit: int = 600) -> str:
    """The text as a page can show it: at most `limit` characters, invisible characters as ⟨U+202E⟩."""
    rest = len(text) - limit
    visible = _INVISIBLE.sub(lambda match: f"⟨U+{ord(match.group()):04X}⟩", text[:limit])
    return f"{visible}… ({rest:,} more characters)" if rest > 0 else visible


def reason_title(reason: str) -> str:
    """A reject reason in words, as a title."""
    meaning = REASONS.get(reason, reason)
    return meaning[:1].upper() + meaning[1:]


# What the provider of the data should do about each reject reason of `vhm.data.records.REASONS`.
ADVICE: dict[str, str] = {
    "bad_json": "Write the list with a JSON library, never by joining strings, and check the record at this index.",
    "unreadable": "Look at the record at this index for what no other record has; report it if it is valid.",
    "duplicate_key": "Remove the second occurrence of the key: programs disagree on which of the two counts.",
    "not_object": "Make every element of the list an object with 'conversations'.",
    "missing_field": "Add the field that the detail names.",
    "wrong_type": "Change the field that the detail names to the type that it expects.",
    "no_human_turn": "Add the question: the first turn comes from 'human', the next from 'gpt'.",
    "alternation": "Order the turns as question, answer, question, answer; end with an answer.",
    "masked_turn": "Drop the record, or drop 'loss' and 'weight' where the turn may be trained on.",
    "unknown_media": "Keep one image per record, named by 'image'. Video, audio and several images are not supported.",
    "tool_call": "Remove the records that call tools, or rewrite them as plain questions and answers.",
    "system_message": "Keep one system message per record, in 'system', and only in instruction lists.",
    "empty_answer": "Supply the missing answer, or drop the record.",
    "turn_count": "Split longer conversations into one record per question, or move them to an instruction list.",
    "image_count": "Put exactly one <image> into the first question of a record with an image, and none elsewhere.",
    "special_token": "Remove the token from the text: a model would read it as a control symbol.",
    "control_character": "Remove control characters and characters that change the direction of text.",
    "bad_unicode": "Save the list as UTF-8. Text was probably cut in the middle of a character.",
    "too_long": "Shorten the text or split the conversation.",
    "no_target": "Supply an answer to learn from, or drop the record.",
    "bad_path": "Give image paths relative to the image folder, without '..', links out of it, or addresses.",
    "image_missing": "Deliver the image, or correct its name; mind upper and lower case.",
    "image_changed": "Pack or fetch the shards again: an image was changed or damaged after it was packed.",
    "image_empty": "Deliver the image again: the transfer left an empty file.",
    "image_unknown": "Deliver the image as JPEG, PNG, TIFF or WebP; the file may be an error page saved as an image.",
    "image_truncated": "Deliver the image again: it is damaged or cut off. Compare checksums after the transfer.",
    "image_mode": "Convert the image to 8-bit RGB, or state which of its bands to show.",
    "image_bomb": "Cut the scene into tiles: the image exceeds the limit on pixels or bytes.",
    "image_thin": "Cut the image to a less extreme shape.",
    "image_size": "Correct 'size' to the image file's width and height in pixels, or deliver the image at that size.",
    "duplicate_id": "Give every record its own id.",
    "duplicate": "Nothing needs to be done: the first occurrence is kept. Many duplicates point to lists joined twice.",
    "bad_number": "Write boxes as [x0, y0, x1, y1] with x0 ≤ x1, y0 ≤ y1, in training lists normalised to [0, 1000).",
    "no_options": "List the options in the question, such as “A. forest B. water”.",
    "refusal": "Replace the caption: it refuses to describe the image. It was probably generated.",
    "boilerplate": "Replace the caption by a description of the image alone.",
    "leak": "Remove these images from the training data, or agree on another evaluation set.",
    "near_duplicate": "Keep one of the two images, or confirm that both are wanted.",
    "blank": "Remove the image: it shows nothing.",
}

FINDINGS: dict[FindingKind, FindingWords] = {
    "identical": FindingWords(
        "Identical to an evaluation image",
        "The file has the same bytes as an evaluation image.",
        "Remove the training image: a model would be tested on what it was trained on.",
    ),
    "re-encoded": FindingWords(
        "Evaluation image in another file",
        "The same image as an evaluation image, in another format, quality, resolution or brightness.",
        "Remove the training image: a model would be tested on what it was trained on.",
    ),
    "transformed": FindingWords(
        "Transformed evaluation image",
        "An evaluation image that was mirrored, rotated, inverted or padded.",
        "Remove the training image: a model would be tested on what it was trained on.",
    ),
    "part": FindingWords(
        "Part of an evaluation image",
        "One of the images is a part of the other.",
        "Remove the training image, or cut training and evaluation images from different scenes.",
    ),
    "overlap": FindingWords(
        "Overlap with an evaluation image",
        "The images share at least half of the smaller one's area, as neighbouring tiles of a sliding window do.",
        "Remove the training image, or cut training and evaluation tiles from different scenes.",
    ),
    "near-duplicate": FindingWords(
        "Near-duplicate training images",
        "An earlier training image shows nearly the same. It counts twice in training.",
        "Keep one of the two, or confirm that both are wanted.",
    ),
    "blank": FindingWords(
        "Blank image",
        "The image has one colour, or consists of no-data values.",
        "Remove the image, or deliver it again if it should show something.",
    ),
}

# Kinds of lists in words.
KINDS = {
    "pretrain": "caption list for pretraining",
    "sft": "instruction list for fine-tuning",
    "eval": "evaluation files",
}
