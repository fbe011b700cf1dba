"""A small random model of each family of captioners, with a tokenizer of twenty words, saved as the hub has them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

SPECIAL_WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "<s>", "</s>", "<pad>", "<unk>", "<image>"]
WORDS = [*SPECIAL_WORDS, "a", "photo", "of", "the", "red", "dog", "on", "beach", "cat", "blue", "sky", "small"]
SIDE = {"height": 32, "width": 32}
TOWER = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
VISION = {**TOWER, "image_size": 32, "patch_size": 16}
SPECIAL = {"unk_token": "<unk>", "pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>"}


def _tokenizer(**special: Any) -> Any:
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers

    found = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="[UNK]"))
    found.pre_tokenizer = pre_tokenizers.Whitespace()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=found, **special)


def _blip() -> tuple[Any, Any]:
    import transformers as t

    ids = {"bos_token_id": 4, "eos_token_id": 3, "sep_token_id": 3, "pad_token_id": 0}
    text = {
        **TOWER,
        **ids,
        "vocab_size": len(WORDS),
        "encoder_hidden_size": 16,
        "max_position_embeddings": 32,
        "projection_dim": 16,
    }
    model = t.BlipForConditionalGeneration(t.BlipConfig(text_config=text, vision_config=VISION, projection_dim=16))
    words = _tokenizer(
        unk_token="[UNK]", pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]", bos_token="<s>", eos_token="</s>"
    )
    return model, t.BlipProcessor(t.BlipImageProcessor(size=SIDE), words)


def _blip2() -> tuple[Any, Any]:
    import transformers as t

    sizes = {"hidden_size": 16, "ffn_dim": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "word_embed_proj_dim": 16}
    ids = {"bos_token_id": 4, "eos_token_id": 5, "pad_token_id": 6}
    text = t.OPTConfig(vocab_size=len(WORDS), max_position_embeddings=64, **sizes, **ids)
    qformer = {**TOWER, "num_hidden_layers": 2, "encoder_hidden_size": 16, "vocab_size": len(WORDS)}
    config = t.Blip2Config(
        vision_config=VISION, qformer_config=qformer, text_config=text.to_dict(), num_query_tokens=4, image_token_index=8
    )
    words = _tokenizer(**SPECIAL, additional_special_tokens=["<image>"])
    return t.Blip2ForConditionalGeneration(config), t.Blip2Processor(t.BlipImageProcessor(size=SIDE), words, num_query_tokens=4)


def _florence() -> tuple[Any, Any]:
    import transformers as t

    layers = {"encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2, "decoder_attention_heads": 2}
    ids = {"pad_token_id": 6, "bos_token_id": 4, "eos_token_id": 5, "decoder_start_token_id": 5, "forced_eos_token_id": 5}
    text = t.BartConfig(
        vocab_size=len(WORDS), d_model=16, encoder_ffn_dim=16, decoder_ffn_dim=16, max_position_embeddings=128, **layers, **ids
    )
    patches = {"patch_size": [7, 3], "patch_stride": [4, 2], "patch_padding": [3, 1], "patch_prenorm": [False, True]}
    heads = {"embed_dim": [8, 16], "depths": [1, 1], "num_heads": [2, 2], "num_groups": [2, 2]}
    vision = {**patches, **heads, "window_size": 4, "projection_dim": 16}
    config = t.Florence2Config(text_config=text.to_dict(), vision_config=vision, image_token_id=8)
    images = t.CLIPImageProcessor(size=SIDE, do_center_crop=False, crop_size=SIDE)
    images.image_seq_length = 17
    words = _tokenizer(**SPECIAL, extra_special_tokens={"image_token": "<image>"})
    return t.Florence2ForConditionalGeneration(config), t.Florence2Processor(images, words, num_additional_image_tokens=1)


def _marian() -> tuple[Any, Any]:
    import transformers as t

    sizes = {"d_model": 16, "d_ff": 16, "d_kv": 8, "num_layers": 1, "num_heads": 2}
    model = t.T5ForConditionalGeneration(t.T5Config(vocab_size=len(WORDS), decoder_start_token_id=0, eos_token_id=3, **sizes))
    return model, _tokenizer(unk_token="[UNK]", pad_token="[PAD]", eos_token="[SEP]")


FAMILIES = {"blip": _blip, "blip2": _blip2, "florence2": _florence, "t5": _marian}


def save(family: str, folder: Path) -> None:
    """Write model and processor. The same bytes each time."""
    import torch

    torch.manual_seed(3)
    model, processor = FAMILIES[family]()
    with torch.no_grad():
        for value in model.parameters():  # larger than models begin with, so that the texts differ
            if value.ndim > 1:
                value.normal_(0, 0.6)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
