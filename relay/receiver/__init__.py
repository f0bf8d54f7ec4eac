"""HTTP → inbox: a webhook is answered 2xx only after the transaction that stores it committed."""

from relay.receiver.addresses import SourceAddresses
from relay.receiver.answers import ANSWERS
from relay.receiver.connection import Limits
from relay.receiver.service import Receiver

__all__ = ["ANSWERS", "Limits", "Receiver", "SourceAddresses"]
