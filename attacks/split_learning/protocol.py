"""The joint training: whose turn it is, on which batch, and from which weights.

`splitdeploy.attacks.split_learning.setups` tells of the protocol and makes such trainings.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from splitdeploy.attacks.checkpoint import Checkpoint
from splitdeploy.attacks.split_learning.exchanges import Exchange
from splitdeploy.attacks.split_learning.parties import Client
from splitdeploy.attacks.steps import Run
from splitdeploy.attacks.training import Learner, train
from splitdeploy.profiles.errors import AttackError


class SplitTraining:
    """A joint training of some clients and a server.

    Args:
        clients: In the order of their turns.
        exchange: The set-up, with its server.
        batch: Samples a step, at most as many as a client holds.
        seed: Of the order of every client's samples.

    Raises:
        AttackError: There are no clients, or the batch has no sample.
    """

    def __init__(
        self, clients: Sequence[Client], exchange: Exchange, *, batch: int = 64, seed: int = 0
    ) -> None:
        if not clients or batch < 1:
            raise AttackError(
                f"expected at least one client and one sample a batch, got {len(clients)} and "
                f"{batch}"
            )
        self.clients, self.exchange = list(clients), exchange
        self.batch, self.seed = batch, seed

    @property
    def steps(self) -> int:
        """Batches that were trained on, all clients together."""
        return sum(client.batches for client in self.clients)

    def step(self) -> float:
        """One client's turn: take over the weights, train on a batch.

        Returns:
            The loss of the batch, as the party that computes it tells it.
        """
        done = self.steps
        client = self.clients[done % len(self.clients)]
        if done and len(self.clients) > 1:
            client.take_over(self._latest(done))
        visit = done // len(self.clients)
        rows = batch_rows(len(client), self.batch, visit, (self.seed, client.index))
        return self.exchange(client, rows)

    def train(
        self, steps: int, run: Run | None = None, checkpoint: Checkpoint | None = None
    ) -> Run:
        """Make steps, resumable, by `splitdeploy.attacks.training.train`.

        Args:
            steps: How many in all.
            run: The clock and the record; a fresh one without a deadline where None.
            checkpoint: Where all parties' states are kept; None for nowhere.

        Returns:
            The run, with the losses. Where one was not finite, the parties went back to a state
            before it, and the run's notes say so.
        """
        record = Run(self.seed, None, None) if run is None else run
        train(self.learners(), lambda _generator: self.step(), steps, record, checkpoint)
        return record

    def learners(self) -> list[Learner]:
        """What all parties train."""
        own = [learner for client in self.clients for learner in client.learners()]
        return [*own, *self.exchange.learners()]

    def joint(self) -> nn.Sequential:
        """The whole model as it stands, with the client that trained last; a copy."""
        return copy.deepcopy(nn.Sequential(*self.exchange.joint(self._latest(self.steps))))

    def _latest(self, done: int) -> Client:
        return self.clients[(done - 1) % len(self.clients)] if done else self.clients[0]


def batch_rows(count: int, batch: int, visit: int, seed: tuple[int, int]) -> Tensor:
    """The rows of a client's batch: its samples in a fresh order every epoch, none left out.

    Args:
        count: Samples of the client.
        batch: Rows a batch; the last of an epoch may have fewer.
        visit: How many batches the client has had before.
        seed: Of the training, and which client.

    Returns:
        At most ``batch`` rows, int64 on the CPU.
    """
    epoch, place = divmod(visit, -(-count // batch))
    drawn = int(np.random.SeedSequence((*seed, epoch)).generate_state(1, np.uint64)[0])
    generator = torch.Generator().manual_seed(drawn >> 1)
    order = torch.randperm(count, generator=generator, device="cpu")
    return order[place * batch : (place + 1) * batch]
