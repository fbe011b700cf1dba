"""Deletes published data, for `gc`, a takedown, or a person; never for a run. `delete` removes an artifact, `delete_lost`
removes set-aside data, `drop_attempt` removes an attempt that is in no record. Records are deleted first, so nothing half
deleted counts as built, and data under removal is marked so that no run resumes in it.
"""

from __future__ import annotations

import time

from datacomp_core.errors import StoreError
from datacomp_core.store import listing
from datacomp_core.store.attempt import PREFIX, end_leases, is_at_work, take_for_removal
from datacomp_core.store.folder import Folder
from datacomp_core.store.lease import latest_turns
from datacomp_core.store.record import Record, manifests_of, record_name
from datacomp_core.store.store import LostArtifact, Store


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
        turn = take_for_removal(home, record.data.rpartition("/")[2]) if is_ours else None
        if is_ours and turn is None:
            raise StoreError(f"{record.address} is still being finished by another run: delete it later.")
        for one in reversed(generations):
            _remove_record(home, record_name(one.generation))
        if is_ours:
            _remove_whole(store.data(record))
        theirs = {one.outputs.manifest for one in generations}
        begun = tuple(manifests_of(one.data) for one in generations if not one.adopted_from)
        for name in home.names():
            if name in theirs or name.startswith(begun):
                home.remove(name)
        for name in home.names():  # marks such as the mark of a takedown; not what a new run writes meanwhile
            if not name.startswith((PREFIX, "_artifact", "_manifest")):
                home.remove(name)
        if turn is not None:
            end_leases(home, record.data.rpartition("/")[2], turn)
        home.prune()
    return True


def delete_lost(store: Store, lost: LostArtifact) -> None:
    """Delete what was set aside as lost, and the note about it."""
    if not lost.record.adopted_from:
        for folder in places_of(store, lost):
            _remove_whole(folder)
    store.root.remove(lost.note)


def places_of(store: Store, lost: LostArtifact) -> list[Folder]:
    """Return the places of a lost artifact's files: as its note says, and the old place if a kill came before the move.

    What a record in force names is not lost, even if a note says so: a process may have been killed before it marked the record,
    and a person may have brought the files back.
    """
    if lost.record.adopted_from:
        return [store.data(lost.record)]
    in_force = {one.data for one in store.generations(lost.address) if one.state in ("built", "changing")}
    return [store.root / data for data in dict.fromkeys((lost.data, lost.record.data)) if data not in in_force]


def remove_lost_file(folder: Folder, name: str) -> None:
    """Remove a file of what was set aside, for a takedown. StoreError if it stays."""
    folder.remove(name)
    if folder.exists(name):
        raise StoreError(f"{folder.at(name)} could not be removed: run the same command again.")


def _remove_record(home: Folder, name: str) -> None:
    """Remove a record, and see that it is gone before the data goes: one that stays would be in force without them."""
    for pause in (*listing.PAUSES, None):
        home.remove(name)
        if name not in listing.ask_until_equal(home.names, home):
            return
        if pause is not None:
            time.sleep(pause)
    raise StoreError(f"{home.at(name)} could not be removed, so its data stay: run the same command again.")


def _remove_whole(folder: Folder) -> None:
    """Remove a folder, and see that it is gone: a listing that is late or empty must not leave files behind unseen."""
    for pause in (*listing.PAUSES, None):
        folder.remove()
        if not listing.ask_until_equal(folder.files, folder):
            return
        if pause is not None:
            time.sleep(pause)
    raise StoreError(f"{folder} could not be removed completely: run the same command again.")


def drop_attempt(store: Store, address: str, name: str, *, silent_for: float) -> bool:
    """Remove an attempt that no record names and in which nobody was at work for `silent_for` seconds.

    False if that is not so (any more).
    """
    home = store.home(address)
    if (
        store.has_older_change(address)
        or store.is_published(address, name)
        or (turn := take_for_removal(home, name, silent_for)) is None
    ):
        return False
    if store.is_published(address, name):  # between the two looks it was published, and its leases were taken away
        end_leases(home, name, turn)
        return False
    _remove_whole(home / name)
    for left in home.names():
        if left.startswith(manifests_of(name)):
            home.remove(left)
    end_leases(home, name, turn)
    home.prune()
    return True


def drop_leases(store: Store, address: str, name: str, *, silent_for: float) -> bool:
    """Remove the remaining leases of a published attempt. False if a process works there."""
    home = store.home(address)
    turn = latest_turns(home).get(name, 0)
    if not turn or not store.is_published(address, name) or is_at_work(home, name, silent_for):
        return False
    end_leases(home, name, turn)
    return True


def drop_own(store: Store, record: Record) -> None:
    """Remove what this process made for `record`, after another run has published. What a record names stays."""
    if not any(one.data == record.data for one in store.certain_generations(record.address)):
        store.data(record).remove()
        store.home(record.address).remove(record.outputs.manifest)
