"""The one place where published data is deleted: by `gc`, by a takedown, or by a person; never by a run.

`delete` takes an artifact away, `delete_lost` what was set aside, `drop_attempt` an attempt that no record names. Records go
first, so nothing half gone counts as built, and what is being removed is marked so that nobody goes on in it.
"""

from __future__ import annotations

from datacomp_core.errors import StoreError
from datacomp_core.store.attempt import PREFIX, doom, end_leases
from datacomp_core.store.record import Record, manifests_of, record_name
from datacomp_core.store.store import Lost, Store


def delete(store: Store, record: Record) -> bool:
    """Delete a published artifact: its records, and its data unless it was adopted. False if it is not in force any more.

    StoreError if it is being changed.
    """
    home = store.home(record.address)
    with store.alone(record.address, "delete it"):
        generations = store.generations(record.address)
        if not generations or generations[-1].to_json() != record.to_json():
            return False
        is_ours = not record.adopted_from and record.data.startswith(f"{record.address}/{PREFIX}")
        turn = doom(home, record.data.rpartition("/")[2]) if is_ours else None
        if is_ours and turn is None:
            raise StoreError(f"{record.address} is still being finished by another run: delete it later.")
        for one in reversed(generations):
            home.remove(record_name(one.generation))
        if is_ours:
            store.data(record).remove()
        theirs = {one.outputs.manifest for one in generations}
        begun = tuple(manifests_of(one.data) for one in generations if not one.adopted_from)
        for name in home.names():
            if name in theirs or name.startswith(begun):
                home.remove(name)
        for name in home.names():  # marks such as that of a takedown; not what a new run writes meanwhile
            if not name.startswith((PREFIX, "_artifact", "_manifest")):
                home.remove(name)
        if turn is not None:
            end_leases(home, record.data.rpartition("/")[2], turn)
        home.prune()
    return True


def delete_lost(store: Store, lost: Lost) -> None:
    """Delete what was set aside as lost, and the note about it."""
    if not lost.record.adopted_from:
        (store.root / lost.data).remove()
    store.root.remove(lost.note)


def drop_attempt(store: Store, address: str, name: str, *, since: float) -> bool:
    """Remove an attempt that no record names and in which nobody was at work after `since` (seconds since 1970).

    False if that is not so (any more).
    """
    home = store.home(address)
    if store.is_published(address, name) or (turn := doom(home, name, since)) is None:
        return False
    if store.is_published(address, name):  # between the two looks it was published, and its leases were taken away
        end_leases(home, name, turn)
        return False
    (home / name).remove()
    for left in home.names():
        if left.startswith(manifests_of(name)):
            home.remove(left)
    end_leases(home, name, turn)
    home.prune()
    return True


def drop_own(store: Store, record: Record) -> None:
    """Remove what this process made for `record`, after another run has published. What a record names stays."""
    if not any(one.data == record.data for one in store.generations(record.address)):
        store.data(record).remove()
        store.home(record.address).remove(record.outputs.manifest)
