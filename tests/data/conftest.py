"""What several data tests make for themselves."""

import pytest


@pytest.fixture
def train_tokenizer(tmp_path):
    """A function that trains a small byte-level BPE and returns its file's path."""
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers, trainers

    from intern_jax.data.make.text import SPECIAL

    def train(special=SPECIAL):
        bpe = tokenizers.Tokenizer(models.BPE())
        bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        bpe.decoder = decoders.ByteLevel()
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        trainer = trainers.BpeTrainer(
            vocab_size=300, initial_alphabet=alphabet, show_progress=False
        )
        bpe.train_from_iterator(["red apple", "green apple & pear", "fruit food"] * 5, trainer)
        bpe.add_special_tokens(list(special))
        path = str(tmp_path / f"tokenizer-{len(list(tmp_path.iterdir()))}.json")
        bpe.save(path)
        return path

    return train
