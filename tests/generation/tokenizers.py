"""Nine tokenizers: how they mark blanks and bytes differs, and so how their text grows."""

import functools
import tempfile
from pathlib import Path

from bmojo.data.text.tokenizers import tokenizer, train_tokenizer

CORPUS = [
    "the cat sat on the mat, and didn't it look at the other cats' mats! über den Hügel 日本\n"
    * 20,
    "def words(text): return text.split()\n",
]
KINDS = ("bytes", "byte-level BPE", "SentencePiece BPE", "SentencePiece unigram", "byte fallback",
         "Metaspace unigram", "WordPiece", "WordLevel", "BPE with word ends")  # fmt: skip


@functools.cache
def make(kind):
    """A tokenizer of some kind."""
    if kind == "bytes":
        return tokenizer("bytes")
    folder = Path(tempfile.mkdtemp())
    if kind.startswith("SentencePiece"):
        (folder / "pieces.model").write_bytes(_pieces(kind.rpartition(" ")[2].lower()))
        return tokenizer(f"sentencepiece:{folder / 'pieces.model'}")
    content = train_tokenizer(iter(CORPUS), 300) if kind == "byte-level BPE" else _json(kind)
    (folder / "tokenizer.json").write_bytes(content)
    return tokenizer(f"tokenizers:{folder / 'tokenizer.json'}")


def _pieces(kind):
    import io

    import sentencepiece

    file = io.BytesIO()
    identity = {"normalization_rule_name": "identity", "byte_fallback": True}
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS[0].splitlines()), model_writer=file, minloglevel=2,
        vocab_size=310 if kind == "bpe" else 60, model_type=kind, hard_vocab_limit=False,
        **(identity if kind == "bpe" else {}),
    )  # fmt: skip
    return file.getvalue()


def _json(kind):
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    special = {"special_tokens": ["</s>", "<unk>"], "show_progress": False, "vocab_size": 90}
    if kind == "byte fallback":
        model = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
        steps = [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
        model.normalizer = normalizers.Sequence(steps)
        steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
        model.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)])
        special["limit_alphabet"] = 30
        special["special_tokens"] += [f"<0x{byte:02X}>" for byte in range(256)]
        special["vocab_size"] = 340
        trainer = trainers.BpeTrainer(**special)
    elif kind == "Metaspace unigram":
        model = Tokenizer(models.Unigram())
        model.pre_tokenizer, model.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
        trainer = trainers.UnigramTrainer(unk_token="<unk>", **special)
    elif kind == "WordPiece":
        model = Tokenizer(models.WordPiece(unk_token="<unk>"))
        model.normalizer = normalizers.BertNormalizer()
        model.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        model.decoder = decoders.WordPiece()
        trainer = trainers.WordPieceTrainer(**special)
    elif kind == "WordLevel":
        model = Tokenizer(models.WordLevel(unk_token="<unk>"))
        model.pre_tokenizer = pre_tokenizers.Whitespace()
        trainer = trainers.WordLevelTrainer(**special)
    else:
        model = Tokenizer(models.BPE(unk_token="<unk>", end_of_word_suffix="</w>"))
        model.pre_tokenizer = pre_tokenizers.Whitespace()
        model.decoder = decoders.BPEDecoder()
        trainer = trainers.BpeTrainer(end_of_word_suffix="</w>", **special)
    model.train_from_iterator(CORPUS, trainer)
    return model.to_str().encode()
