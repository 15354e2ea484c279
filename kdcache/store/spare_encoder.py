"""The second copy of a fitted encoder: without the table no chunk of its mentor can be decoded."""

from contextlib import suppress

from kdcache.encode import FITTED, Encoder, TargetKind, encoder_from_description
from kdcache.errors import DamagedTargets, StoreError
from kdcache.store.array_documents import is_made, read_array
from kdcache.store.layout import ArrayLocation
from kdcache.store.manifest import Manifest
from kdcache.store.sealed import DamagedDocument, read_sealed


def stated_encoder(array: ArrayLocation, manifest: Manifest, kind: TargetKind) -> Encoder | None:
    """What a mentor's array says it is encoded by; where it is damaged, a fitted one's second copy.

    None where neither can be read, and where there is no such mentor.
    """
    if not is_made(array.group):
        return None
    with suppress(StoreError):
        return read_array(array, manifest, kind)[0]
    return read_spare_encoder(array, manifest, kind)


def spare_damage(array: ArrayLocation, encoder: Encoder) -> DamagedTargets | None:
    """What is wrong with the second copy of an array's encoder; None where none is needed."""
    if encoder.name not in FITTED:
        return None
    try:
        stated = read_sealed(array.spare_encoder).get("encoder")
    except FileNotFoundError:
        return DamagedDocument(array.spare_encoder, "the file is gone")
    except DamagedTargets as error:
        return error
    if stated != encoder.describe():
        return DamagedDocument(array.spare_encoder, "it is of another encoder than the array's")
    return None


def read_spare_encoder(
    array: ArrayLocation, manifest: Manifest, kind: TargetKind
) -> Encoder | None:
    """A fitted encoder's second copy; None where there is none, or it is damaged too."""
    try:
        described = read_sealed(array.spare_encoder)["encoder"]
        encoder = encoder_from_description(described, manifest.dataset["num_classes"])
    except (StoreError, FileNotFoundError, KeyError, TypeError, ValueError):
        return None
    return encoder if encoder.name in kind.encoders else None
