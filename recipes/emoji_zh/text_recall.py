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

from rapid_diffusion.components import find_model
from rapid_diffusion.model_folder import load_model
from rapid_diffusion.training.config import DataConfig
from rapid_diffusion.training.finetune_data import open_examples_of


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="emoji-zh")
    parser.add_argument("--data", type=Path, default=Path(".work/emoji_zh"))
    parser.add_argument("--out", type=Path, default=Path("docs/results/text-tower.json"))
    options = parser.parse_args()
    model = load_model(find_model(options.model))
    assert model.pair is not None
    pair, (examples, _) = model.pair, open_examples_of(DataConfig(str(options.data)), model)
    pictures = examples.picture_features(pair, torch.device("cpu"))
    codes = [row["code"] for row in examples.rows]
    report: dict = {
        "pictures": len(codes),
        "model": model.card.name,
        "command": "python -m recipes.emoji_zh.text_recall",
    }
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
