"""How well the contrastive pair finds the picture of a sentence, with and without knowledge.

    python -m recipes.emoji_zh.text_recall --out docs/results/text-tower.json

Every plain caption looks for its own picture among all pictures of the data set, and for any
picture of its concept.
"""

import argparse
import json
from pathlib import Path

import torch
from torch import Tensor

from rapid_diffusion.training.config import read_training_config
from rapid_diffusion.training.data import Examples
from rapid_diffusion.training.run import Training

CONFIG = Path(__file__).with_name("config.toml")


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", type=Path, default=CONFIG)
    parser.add_argument("--out", type=Path, default=Path("docs/results/text-tower.json"))
    options = parser.parse_args()
    training = Training(read_training_config(options.config))
    examples, pair = training.examples, training.pair()
    assert isinstance(examples, Examples)
    pictures = examples.picture_features(pair, training.device)
    codes = [row["code"] for row in examples.rows]
    report: dict = {"pictures": len(codes), "command": "python -m recipes.emoji_zh.text_recall"}
    for name, indices in (("trained_pairs", examples.train), ("held_out_pairs", examples.held_out)):
        for knowledge in (True, False):
            tokens = examples.first_captions(indices, knowledge=knowledge)
            sentences = pair.text_features(pair.text.encode(tokens).hidden)
            found = recall(sentences @ pictures.T, indices, codes)
            report[f"{name}_knowledge_{'on' if knowledge else 'off'}"] = found
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report, indent=1))


def recall(similarity: Tensor, indices: list[int], codes: list[str]) -> dict[str, float]:
    """Recall at 1 and 5 of the very picture, and at 1 of its concept."""
    own = similarity[torch.arange(len(indices)), indices]
    place = (similarity > own[:, None]).sum(1)
    nearest = similarity.argmax(1).tolist()
    concept = [codes[found] == codes[index] for found, index in zip(nearest, indices, strict=True)]
    return {
        "recall_at_1": round((place < 1).float().mean().item(), 4),
        "recall_at_5": round((place < 5).float().mean().item(), 4),
        "concept_at_1": round(sum(concept) / len(concept), 4),
    }


if __name__ == "__main__":
    main()
