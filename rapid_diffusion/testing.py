"""A complete model, tiny and random: every room's tests draw with it in milliseconds."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from knowledge.builder import BuildOptions, build_version
from knowledge.graph import KnowledgeGraph
from knowledge.training import train_version
from knowledge.transe import TransEConfig
from rapid_diffusion.adapters import Adapters
from rapid_diffusion.autoencoder import PatchAutoencoder, PatchConfig
from rapid_diffusion.checkpoints.adapter import AdapterCard, base_of, write_adapter
from rapid_diffusion.config import DenoiserConfig, ImageTowerConfig, TextConfig
from rapid_diffusion.denoising.denoiser import build_denoiser
from rapid_diffusion.model_folder import Model, ModelCard, load_model, save_model
from rapid_diffusion.super_resolution.networks import UpscalerConfig, build_network
from rapid_diffusion.super_resolution.upscaler import Upscaler
from rapid_diffusion.text.clip import ContrastivePair
from rapid_diffusion.text.encoder import build_text_encoder
from rapid_diffusion.text.tokens import SPECIAL, TextTokenizer

SENTENCES = "三维立体风格的老虎，卡通猫扁平大红苹果一个画"
TRIPLES = [
    ("老虎", "属于", "动物"),
    ("猫", "属于", "动物"),
    ("红苹果", "属于", "水果"),
    ("红苹果", "颜色", "红色"),
]
ALIASES = [("大虫", "老虎", 0.9), ("平安果", "红苹果", 0.9)]


def build_micro_model(directory: str | Path) -> Path:
    """Write a model folder: 4x4 latents, 16 px drawings, x4 upscaler, seven entities."""
    directory = Path(directory)
    graph = build_micro_graph(directory.with_name(f"{directory.name}-graph"))
    characters = sorted(set(SENTENCES + "".join(surface for surface, _, _ in ALIASES)))
    tokenizer = TextTokenizer.from_vocabulary([*SPECIAL, *characters], 16)
    text = TextConfig(len(tokenizer), 16, 1, 2, 16, graph.dimension)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = _random_model(tokenizer, text, graph)
    save_model(model, directory, "float32")
    return directory


def build_micro_adapter(directory: str | Path, model_folder: str | Path, seed: int = 0) -> Path:
    """Write a random adapter of every layer of the micro model, strong enough to be seen."""
    folder = Path(model_folder)
    networks = Adapters(load_model(folder)).networks
    generator = torch.Generator().manual_seed(seed)
    written = {name: _random_changes(network, generator) for name, network in networks.items()}
    card = AdapterCard(f"random {seed}", base_of(folder, "micro"), license="Apache-2.0")
    write_adapter(Path(directory), card, written)
    return Path(directory)


def _random_changes(
    network: torch.nn.Module, generator: torch.Generator, rank: int = 2
) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """The config and the weights of a LoRA as `peft` writes them."""
    weights = {}
    names = [n for n, m in network.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    for name in names:
        shape = network.get_parameter(f"{name}.weight").shape
        one = (1,) * (len(shape) - 2)
        for part, size in (("A", (rank, *shape[1:])), ("B", (shape[0], rank, *one))):
            values = 0.2 * torch.randn(size, generator=generator)
            weights[f"base_model.model.{name}.lora_{part}.weight"] = values
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": 2 * rank, "target_modules": names}
    return config | {"bias": "none", "inference_mode": True}, weights


def build_micro_graph(store: Path) -> KnowledgeGraph:
    """A graph of a few facts with trained entity vectors of 8 numbers."""
    version = build_version(TRIPLES, ALIASES, store, options=BuildOptions(link_objects=True))
    train_version(version, TransEConfig(dimension=8, epochs=2))
    return KnowledgeGraph.open(store)


def _random_model(tokenizer: TextTokenizer, text: TextConfig, graph: KnowledgeGraph) -> Model:
    text_encoder = build_text_encoder(text).eval()
    text_encoder.injection.gate.data.fill_(1.0)  # so that knowledge changes the picture
    denoiser = build_denoiser(
        DenoiserConfig(
            sample_size=4,
            channels=8,
            widths=(8, 16),
            attends=(False, True),
            head_width=8,
            text_width=16,
            norm_groups=4,
            draft=8,
            draft_spread=True,
        )
    ).eval()
    torch.nn.init.normal_(denoiser.network.conv_out.weight, std=0.2)
    assert denoiser.draft is not None
    torch.nn.init.normal_(denoiser.draft.output.weight, std=0.2)
    autoencoder = PatchAutoencoder(PatchConfig(4, 8))
    torch.nn.init.orthogonal_(autoencoder.basis)
    upscaler = UpscalerConfig("SRVGGNetCompact", scale=4, num_feat=8, num_conv=1)
    card = ModelCard("micro", license="Apache-2.0", num_inference_steps=4)
    return Model(
        card,
        tokenizer,
        text,
        text_encoder,
        denoiser,
        autoencoder.eval(),
        Upscaler(build_network(upscaler).eval(), upscaler),
        graph,
        ContrastivePair(text_encoder, ImageTowerConfig((8, 8), (1, 1), 8)).eval(),
    )
