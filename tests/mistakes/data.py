"""What can go wrong with `bmojo data`."""

from pathlib import Path

from tests.mistakes.plant import cut, edit, link, nothing, remove, table, write

PREPARE = {
    "no such source": (
        nothing, "data prepare nowhere --out out",
        "nowhere: no such file or folder; give one, or 'stdlib', or hf:NAME ..."),
    "empty folder": (
        lambda: Path("empty").mkdir(), "data prepare empty --out out",
        "empty: no file ending in .txt, .jsonl, .parquet in it; name the ending with --suffix"),
    "empty files": (
        write("empty/a.txt"), "data prepare empty --out out",
        "empty: no text to train on (its documents are empty); give more text"),
    "unknown kind of file": (
        write("in/a.md", "text"), "data prepare in --out out",
        "in: no file ending in .txt, .jsonl, .parquet in it; name the ending with --suffix"),
    "packed file": (
        write("a.jsonl.gz", b"\x1f\x8b"), "data prepare a.jsonl.gz --out out",
        "a.jsonl.gz: .gz files are not read; unpack it to .txt, .jsonl, .parquet"),
    "wrong encoding": (
        write("a.txt", b"one\nth\xe9\n"), "data prepare a.txt --out out",
        "a.txt:2: not UTF-8 (byte 0xe9, ...); mend it, or leave it out with bmojo data ..."),
    "file that cannot be read": (
        link("in/a.txt", "nowhere"), "data prepare in --out out",
        "a.txt: cannot be read (No such file or directory); mend it, or leave it out with ..."),
    "JSON line with a number of 5,000 digits": (
        write("a.jsonl", '{"text": ' + "1" * 5000 + "}"), "data prepare a.jsonl --out out",
        "a.jsonl:1: not JSON (Exceeds the limit ...); mend it, or leave it out with bmojo ..."),
    "corrupt JSON line": (
        write("a.jsonl", '{"text": "x"}\n{"text"\n'), "data prepare a.jsonl --out out",
        "a.jsonl:2: not JSON (...); mend it, or leave it out with bmojo data ..."),
    "JSON lines without the field": (
        write("a.jsonl", '{"body": "x"}\n'), "data prepare a.jsonl --out out",
        "a.jsonl:1: no field 'text'; it has 'body'; mend it, or ..."),
    "table without the column": (
        table("a.parquet", "body"), "data prepare a.parquet --out out",
        "a.parquet: no column 'text'; choose one of body with --field"),
    "no table": (
        write("a.parquet", "no"), "data prepare a.parquet --out out",
        "a.parquet: not Parquet (...); mend it, or leave it out with bmojo data ..."),
    "data set out of reach": (
        nothing, "data prepare hf:books --out out",
        "hf:books: the data set cannot be loaded (ConnectionError: offline); check its name ..."),
    "data set without a name": (
        nothing, "data prepare hf: --out out",
        "hf:: names no data set; write hf:NAME, hf:NAME:CONFIG:SPLIT"),
    "fraction": (
        nothing, "data prepare books --out out --validation 1.5",
        "--validation: 1.5 is not a fraction; give one from 0 to below 1"),
    "nothing to train on": (
        nothing, "data prepare books --out out --validation 0.5 --test 0.5",
        "--validation, --test: nothing is left to train on; lower them"),
    "out is a file": (
        nothing, "data prepare books --out tiny.gin",
        "tiny.gin: the directory cannot be written (File exists); choose another"),
    "out is not UTF-8": (
        nothing, "data prepare books --out new\udcff",
        "'new\\udcff' cannot be written as utf-8; use other characters"),
    "out holds other things": (
        nothing, "data prepare books --out books",
        "books: holds '0.txt' and no prepared text; choose a new directory with --out"),
    "out holds other text": (
        nothing, "data prepare books --out prepared --validation 0.2 --test 0.2 --field body",
        "prepared: holds other text (field is 'text' there and 'body' now); choose another ..."),
    "unknown tokenizer": (
        nothing, "data prepare books --out out --tokenizer byte",
        "tokenizer: 'byte' is unknown; did you mean 'bytes'?"),
    "no SentencePiece model": (
        nothing, "data prepare books --out out --tokenizer sentencepiece:tiny.gin",
        "tiny.gin: no usable sentencepiece file (it holds no SentencePiece model); give another "
        "one"),
    "broken tokenizer": (
        write("bad.json", "{"), "data prepare books --out out --tokenizer tokenizers:bad.json",
        "bad.json: no usable tokenizers file (...); give another one"),
    "tokenizer without an end": (
        nothing, "data prepare books --out out --tokenizer tokenizers:/dev/zero",
        "/dev/zero: the tokenizer cannot be read (it is a device); give an existing file in "
        "tokenizers:FILE"),
    "tokenizer is a folder": (
        nothing, "data train-tokenizer books --vocab-size 300 --out books",
        "--out: books is a folder; name a file in it, as books/bpe.json"),
    "tokenizer too small": (
        nothing, "data train-tokenizer books --vocab-size 10 --out new.json",
        "--vocab-size: 10 does not hold the 256 bytes and the end of a document; give at ..."),
    "tokenizer of nothing": (
        write("empty/a.txt"), "data train-tokenizer empty --vocab-size 300 --out new.json",
        "tokenizer: there is no text to learn from; give sources with some"),
}  # fmt: skip

PREPARED = {
    "no prepared text": (
        nothing, "data show books",
        "books: no prepared text is here; bmojo data prepare SOURCE --out books"),
    "a file": (
        nothing, "data show tiny.gin",
        "tiny.gin: is a file; name the directory of prepared text"),
    "missing shard": (
        remove("prepared/train*.array_record"), "data check prepared",
        "prepared/train-00000.array_record: the shard is missing; put it back, or delete prepared "
        "and prepare the text again"),
    "truncated shard": (
        cut("prepared/train*.array_record"), "data check prepared",
        "prepared/train-00000.array_record: not what the manifest says (100 bytes instead of "
        "...); put the old file back, or delete prepared and prepare the text again"),
    "changed manifest": (
        edit("prepared/manifest.json", '"documents": ', '"documents": 1'), "data show prepared",
        "prepared/manifest.json: was changed by hand; put it back, or delete prepared and ..."),
    "broken manifest": (
        write("prepared/manifest.json", "[]"), "data show prepared",
        "prepared/manifest.json: not readable as a manifest; put it back, or delete prepared ..."),
    "manifest of a newer version": (
        edit("prepared/manifest.json", '"format": 1', '"format": 2'), "data show prepared",
        "prepared/manifest.json: has format 2, this version reads 1; use the version that wrote "
        "it, or delete prepared and prepare the text again"),
    "interrupted": (
        remove("prepared/manifest.json"), "data show prepared",
        "prepared: its preparation was interrupted; the same command goes on"),
}  # fmt: skip
