"""Who sees that AI made a picture: the explicit label's place, and who may go without it."""

from rapid_diffusion.images.label import Position, holds_label
from server.capabilities import Capabilities
from server.errors import Problem
from server.keys import UNLABELLED, Keys
from server.reading import final_size
from server.schemas import GenerationRequest, LabelRequest
from server.settings import Settings


def label_position(
    asked: GenerationRequest, able: Capabilities, settings: Settings
) -> Position | None:
    """The corner of the explicit label, or None where there is none.

    Nobody asked for one on a picture that cannot hold it: `check_capabilities` refuses that. Where
    the setting wants one, such a picture goes without, and its answer says so.
    """
    wanted = asked.label or LabelRequest()
    explicit = settings.explicit_label if wanted.explicit is None else wanted.explicit
    if not explicit or not holds_label(*final_size(asked, able)):
        return None
    return wanted.position or "bottom_right"


def embeds_parameters(settings: Settings, keys: Keys | None, owner: str) -> bool:
    """Whether files say how they were drawn, prompt and all: the setting or the key says no."""
    return settings.embed_parameters and (keys is None or keys.embeds_parameters(owner))


def check_unlabelled(
    asked: GenerationRequest, settings: Settings, keys: Keys | None, owner: str
) -> bool:
    """Whether a picture goes without the label on its client's word; the caller logs that.

    A client may ask so where the setting says the same, on the loopback without keys, and with a
    key of that scope. Raises `Problem` label_required where it may not.
    """
    if asked.label is None or asked.label.explicit is not False or not settings.explicit_label:
        return False
    allowed = settings.is_loopback if keys is None else keys.allows(owner, UNLABELLED)
    if not allowed:
        raise Problem("label_required", param="label.explicit")
    return True
