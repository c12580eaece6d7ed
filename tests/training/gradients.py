"""`python gradients.py CONFIG OUT`: the gradients of a step, by as many processes as there are."""

import os
import sys
from dataclasses import replace
from pathlib import Path

import torch

from rapid_diffusion.training.config import LoopConfig, read_training_config
from rapid_diffusion.training.loop import _backward, _parts
from rapid_diffusion.training.processes import join_processes, leave_processes, share_batch_norms
from rapid_diffusion.training.run import Training

LOOP = LoopConfig(steps=1, batch=6, learning_rate=1e-3)


def save_gradients(config_path: Path, out: Path) -> None:
    config = read_training_config(config_path)
    training = Training(replace(config, loops=dict.fromkeys(config.loops, LOOP)))
    processes = join_processes()
    for name in ("text", "diffusion"):
        stage = training._stage(name)
        torch.manual_seed(5)
        for parameter in stage.module.parameters():
            if not parameter.any():  # what starts at zero hides the gradients behind it
                torch.nn.init.normal_(parameter, std=0.1)
        if name == "text":
            # Rows are compared with each other after norms over six pictures: in float32 the last
            # digits of such gradients are noise.
            stage.module.double()
        stage.module.train()
        if processes.count > 1:
            share_batch_norms(stage.module)
        loss = _backward(stage, LOOP, 3, _parts(stage, LOOP, processes))
        found = {key: p.grad for key, p in stage.module.named_parameters() if p.grad is not None}
        values = {"loss": loss, **found, **dict(stage.module.named_buffers())}
        torch.save(values, out / f"{name}-{processes.index}-of-{processes.count}.pt")


if __name__ == "__main__":
    from accelerate import PartialState

    PartialState(cpu=True, init_method=f"file://{os.environ['MEETING_PLACE']}")
    save_gradients(Path(sys.argv[1]), Path(sys.argv[2]))
    leave_processes()
