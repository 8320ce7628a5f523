r"""The eager executor: network, step, network, step, …

Per evaluation it launches the network and one fused step, and nothing else: the row each step executes is a view into an
index vector made once, c_noise of an evaluation is a view into the table, and x, h, net_in are static buffers. So the
executor itself allocates nothing in the steady state and asks for no value on the device; the network and the backend's step
may (the PyTorch reference step makes temporaries, the Triton step none).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

import restart_kernels
from restart_kernels import layout

from ..denoiser import Denoiser
from ..table import Table

NEVER = 2**31 - 1


class EagerExecutor:
    """Runs one table at up to `batch_size` samples at a time.

    Args:
        table: the bound plan.
        device: where buffers and network live.
        dtype: dtype of the network's input.
        register_dtype: float32, or float64 on the reference backend (for order tests and as an oracle).
        backend: a backend of restart_kernels.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        table: Table,
        batch_size: int,
        device: torch.device,
        dtype: torch.dtype,
        register_dtype: torch.dtype,
        backend: str,
    ) -> None:
        self.denoiser, self.table, self.backend = denoiser, table, backend
        self.guided = table.plan.config.guided
        copies = 2 if self.guided else 1
        self.x = torch.empty(batch_size, *denoiser.shape, dtype=register_dtype, device=device)
        self.h = torch.empty_like(self.x)
        self.net_in = torch.empty(copies * batch_size, *denoiser.shape, dtype=dtype, device=device)
        self.F = torch.empty(0, device=device)
        self.first_bad = torch.empty(batch_size, dtype=torch.int32, device=device)
        self.coef = torch.from_numpy(table.coef).to(device, register_dtype)
        self.code = torch.from_numpy(table.code).to(device)
        self.c_noise = self.coef[:, layout.C_NOISE].contiguous()
        self.row = torch.arange(table.nfe + 1, dtype=torch.int32, device=device)
        # Given latents enter through a row of their own: x already holds them, scaled by the initial std.
        self.latent_coef, self.latent_code = self.coef[:1].clone(), self.code[:1].clone()
        self.latent_coef[0, layout.Y_X], self.latent_coef[0, layout.S] = table.plan.initial_noise, 0.0
        self.latent_code[0, layout.FLAGS] |= layout.READ_X

    def run(
        self,
        seeds: Tensor,
        labels: Tensor | None,
        latents: Tensor | None = None,
        on_row: Callable[[int], None] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Draw the samples of `seeds` int64 [n], n ≤ batch_size.

        Args:
            labels: one-hot float32 [n, label_dim] (for a guided plan [2n, …]: conditional rows, then unconditional).
            latents: standard-normal start [n, *shape] instead of draw 0.
            on_row: called on the host after each evaluation was issued, with its number 1 … NFE.

        Returns:
            (x [n, *shape], first_bad int32 [n]): views of static buffers, overwritten by the next run.
        """
        n = len(seeds)
        x, h, first_bad = self.x[:n], self.h[:n], self.first_bad[:n].fill_(NEVER)
        net_in = self.net_in[: 2 * n] if self.guided else self.net_in[:n]

        def step(row: int, F: Tensor | None, coef: Tensor, code: Tensor) -> None:
            conditional, unconditional = (F[:n], F[n:]) if F is not None and self.guided else (F, None)
            if F is None and self.guided:
                conditional = unconditional = net_in[:n]  # never read: the first row reads no F
            restart_kernels.step(
                x, h, conditional, net_in, coef=coef, code=code, cursor=self.row[row : row + 1], seeds=seeds,
                first_bad=first_bad, F_uncond=unconditional, backend=self.backend,
            )  # fmt: skip

        if latents is None:
            step(0, None, self.coef, self.code)
        else:
            x.copy_(latents)
            step(0, None, self.latent_coef, self.latent_code)
        for row in range(1, self.table.nfe + 1):
            F = self.denoiser.network(net_in, self.c_noise[row - 1 : row], labels)
            step(row, F if F.is_contiguous() else self._contiguous(F), self.coef, self.code)
            if on_row is not None:
                on_row(row)
        return x, first_bad

    def _contiguous(self, F: Tensor) -> Tensor:
        """F in element order, copied into a buffer that is made once."""
        if self.F.shape[1:] != F.shape[1:] or len(self.F) < len(F) or self.F.dtype != F.dtype:
            self.F = torch.empty(len(self.net_in), *F.shape[1:], dtype=F.dtype, device=F.device)
        return self.F[: len(F)].copy_(F)
