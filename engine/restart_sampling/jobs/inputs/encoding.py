r"""Texts to conditions, beside the sampler.

A thread encodes what the job will need next, one text after the other, and keeps what is not drawn yet within AHEAD
bytes. A text that comes again is encoded once while it is kept. One at a time, because what an encoder returns for a
text may depend, in the last bits, on how many others it encodes with it, and a job's images depend on nothing but its
inputs. Where the encoder is on a GPU, the thread has a stream of its own.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor

AHEAD = 64 << 20  # bytes of conditions that wait for the sampler, and as many that it has used
Told = Mapping[str, Tensor]
Encode = Callable[[str], Told]


class Entry(NamedTuple):
    """A text that is encoded: its conditions, the event after which they are there on a GPU, what was seen of it."""

    told: Told
    done: Any
    seen: str


class Encoding:
    """Conditions of texts, encoded in a thread.

    Args:
        encode: returns the conditions of one text by name, [*shape] each, on the device where they are used.
        ahead: bytes of conditions that may wait.
        look: returns what is to be said of a text; it is called by the same thread, since tokenizers may not be shared.
    """

    def __init__(self, encode: Encode, ahead: int = AHEAD, look: Callable[[str], str] | None = None) -> None:
        self.encode, self.ahead, self.look = encode, ahead, look
        self.device: torch.device | None = None  # where `encode` works, if that is known
        self.encoded = 0  # texts, for people who count
        self._wake = threading.Condition()
        self._wanted: OrderedDict[str, None] = OrderedDict()  # texts that the sampler waits for
        self._next: Iterator[str] | None = None  # texts that it will need
        self._waiting: dict[str, Entry] = {}  # encoded and not used yet
        self._used: OrderedDict[str, Entry] = OrderedDict()
        self._bytes = {"waiting": 0, "used": 0}
        self._error: BaseException | None = None
        self._closed = False
        self._thread: threading.Thread | None = None

    def follow(self, texts: Iterator[str]) -> None:
        """Say which texts will be needed next, in order, in the place of what was said before."""
        with self._wake:
            self._next = texts
            self._start()
            self._wake.notify_all()

    def to(self, device: torch.device) -> bool:
        """Move the encoder, if it can be moved, before it encodes anything; return False if it did not fit."""
        if (move := getattr(self.encode, "to", None)) is None:
            return True
        if not move(device):
            return False
        self.device = device
        return True

    def of(self, texts: Sequence[str]) -> tuple[dict[str, Tensor], dict[str, str]]:
        """Return the conditions of texts by name, [n, *shape], and what was seen of each text, "" for nothing.

        Waits for those that are not encoded yet.

        Raises what the encoder raised.
        """
        unique = dict.fromkeys(texts)
        with self._wake:
            found = {text: self._take(text) for text in unique}
            self._wanted = OrderedDict.fromkeys(text for text, told in found.items() if told is None)
            if self._wanted and self._bytes["waiting"] >= self.ahead:
                self._forget()
            self._start()
            self._wake.notify_all()
            while self._wanted or None in found.values():
                if self._error is not None:
                    raise self._error
                for text in [text for text, told in found.items() if told is None]:
                    found[text] = self._take(text)
                if None in found.values():
                    self._wake.wait()
        entries = {text: entry for text, entry in found.items() if entry is not None}
        told = {text: _arrived(entry.told, entry.done) for text, entry in entries.items()}
        stacked = {name: torch.stack([told[text][name] for text in texts]) for name in told[texts[0]]}
        return stacked, {text: entry.seen for text, entry in entries.items()}

    def close(self) -> None:
        """End the thread."""
        with self._wake:
            self._closed = True
            self._wake.notify_all()
        if self._thread is not None:
            self._thread.join()

    def _start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="restart-encoder", daemon=True)
            self._thread.start()

    def _take(self, text: str) -> Entry | None:
        """Return what is encoded of a text, which is then used; with the lock held."""
        if text in self._waiting:
            entry = self._waiting.pop(text)
            size = _size(entry.told)
            self._bytes["waiting"] -= size
            self._used[text] = entry
            self._bytes["used"] += size
            while self._bytes["used"] > self.ahead and len(self._used) > 1:
                _, old = self._used.popitem(last=False)
                self._bytes["used"] -= _size(old.told)
            self._wake.notify_all()
            return entry
        if text in self._used:
            self._used.move_to_end(text)
            return self._used[text]
        return None

    def _forget(self) -> None:
        """Make room: what waits is not what the sampler asks for, so the oldest half of it was passed by."""
        while self._waiting and self._bytes["waiting"] > self.ahead // 2:
            oldest = next(iter(self._waiting))
            self._bytes["waiting"] -= _size(self._waiting.pop(oldest).told)

    def _work(self) -> None:
        on_gpu = self.device is not None and self.device.type == "cuda"
        with torch.cuda.stream(torch.cuda.Stream(self.device)) if on_gpu else nullcontext():
            self._encode_all()

    def _encode_all(self) -> None:
        try:
            while (text := self._choose()) is not None:
                entry = self._encoded(text)
                with self._wake:
                    self._waiting[text] = entry
                    self._bytes["waiting"] += _size(entry.told)
                    self._wanted.pop(text, None)
                    self._wake.notify_all()
        except BaseException as error:  # raised again where the conditions are needed
            with self._wake:
                self._error = error
                self._wanted.clear()
                self._wake.notify_all()

    def _choose(self) -> str | None:
        """Return the next text to encode, once there is one; None at the end."""
        while True:
            with self._wake:
                while not (self._closed or self._wanted or (self._next and self._bytes["waiting"] < self.ahead)):
                    self._wake.wait()
                if self._closed:
                    return None
                if self._wanted:
                    return next(iter(self._wanted))
                texts = self._next
            text = next(texts, None) if texts is not None else None  # without the lock: it may read a file
            with self._wake:
                if text is None:
                    if self._next is texts:
                        self._next = None
                elif text not in self._waiting and text not in self._used:
                    return text

    def _encoded(self, text: str) -> Entry:
        with torch.inference_mode(False), torch.no_grad():
            told = {name: value.detach() for name, value in self.encode(text).items()}
        self.encoded += 1
        done = None
        device = next((value.device for value in told.values() if value.device.type == "cuda"), None)
        if device is not None:
            done = torch.cuda.Event()
            done.record(torch.cuda.current_stream(device))
        return Entry(told, done, self.look(text) if self.look is not None else "")


def _arrived(told: Told, done: Any) -> Told:
    """Return conditions that the current stream may read."""
    if done is not None:
        device = next(value.device for value in told.values() if value.device.type == "cuda")
        stream = torch.cuda.current_stream(device)
        stream.wait_event(done)
        for value in (value for value in told.values() if value.device.type == "cuda"):
            value.record_stream(stream)  # its memory is not used again before this stream has read it
    return told


def _size(told: Told) -> int:
    return sum(value.nbytes for value in told.values())
