"""What becomes of an update on its way to the server: clipping and codecs, with kept states."""

from simfl.states import State
from simfl.transforms.clipping import Clip
from simfl.transforms.codec import Codec, Message
from simfl.transforms.codecs import Cast, TopK
from simfl.transforms.sending import Sent, send_update, shapes_of
from simfl.transforms.transform import Shapes, UpdateContext, UpdateTransform

__all__ = [
    "Cast",
    "Clip",
    "Codec",
    "Message",
    "Sent",
    "Shapes",
    "State",
    "TopK",
    "UpdateContext",
    "UpdateTransform",
    "send_update",
    "shapes_of",
]
