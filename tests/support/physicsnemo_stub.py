"""Stand-ins for PhysicsNeMo, written from its documented protocols: networks, noise schedulers, and the sampling loop.

The networks are exact for Gaussian data around a mean that follows from the low-resolution image.
"""

from __future__ import annotations

import itertools

import torch

DATA = 0.4  # standard deviation of the data around its mean


def enlarged(img_lr, channels):
    """The mean of the data: the first channels of the low-resolution image."""
    return img_lr[:, :channels]


def posterior(x, sigma, mean):
    """E[x0 | x0 + sigma·eps = x] of N(mean, DATA²)."""
    variance = sigma.to(x.dtype).reshape(-1, *[1] * (x.ndim - 1)) ** 2
    return (DATA**2 * x + variance * mean) / (DATA**2 + variance)


class Base(torch.nn.Module):
    img_resolution, img_channels, img_out_channels = (4, 6), 2, 2
    sigma_min, sigma_max, label_dim = 0.0, float("inf"), 0

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(()), requires_grad=False)
        self.calls = []

    @staticmethod
    def round_sigma(sigma):
        return torch.as_tensor(sigma)

    def seen(self, x, sigma):
        assert x.ndim == 4 and sigma.numel() in (1, len(x))
        self.calls.append(float(sigma.reshape(-1)[0]))
        return x.float() * self.scale


class SuperResolution(Base):
    """forward(x, img_lr, sigma, force_fp32=False, **model_kwargs), as EDMPrecondSuperResolution."""

    img_in_channels = 3

    def forward(self, x, img_lr, sigma, force_fp32=False, **model_kwargs):
        assert img_lr.shape[1:] == (self.img_in_channels, *x.shape[2:]) and "class_labels" not in model_kwargs
        assert len(img_lr) == len(x)
        lead = model_kwargs.get("lead_time_label")
        mean = enlarged(img_lr, x.shape[1]) + (0 if lead is None else lead.reshape(-1, 1, 1, 1))
        return posterior(self.seen(x, sigma), sigma, mean)


class Conditional(Base):
    """forward(x, sigma, condition=None, class_labels=None, force_fp32=False, **model_kwargs), as EDMPrecond."""

    label_dim = 3

    def forward(self, x, sigma, condition=None, class_labels=None, force_fp32=False, **model_kwargs):
        mean = 0 if condition is None else enlarged(condition, x.shape[1])
        if class_labels is not None:
            assert class_labels.shape[1] == 3
            mean = mean + (class_labels @ torch.tensor([-1.0, 0.0, 1.0])).reshape(-1, 1, 1, 1)
        return posterior(self.seen(x, sigma), sigma, mean)


class Unconditional(Base):
    """forward(x, sigma, class_labels=None, force_fp32=False, **model_kwargs), as VEPrecond."""

    img_resolution, sigma_min, sigma_max = 4, 0.02, 100.0

    def forward(self, x, sigma, class_labels=None, force_fp32=False, **model_kwargs):
        assert class_labels is None
        return posterior(self.seen(x, sigma), sigma, torch.tensor(0.25))


class Regression(torch.nn.Module):
    """net(x=zeros, img_lr=…), the mean."""

    def forward(self, x, img_lr, **model_kwargs):
        assert not x.any() and len(img_lr) == 1
        return enlarged(img_lr, x.shape[1])


class LinearGaussian:
    """The documented methods of linear-Gaussian schedules; subclasses say alpha, sigma and their derivatives."""

    def drift(self, x, t):
        t = t.reshape(-1, *[1] * (x.ndim - 1))
        return self.alpha_dot(t) / self.alpha(t) * x

    def diffusion(self, x, t):
        t = t.reshape(-1, *[1] * (x.ndim - 1))
        sigma = self.sigma(t)
        return 2 * self.sigma_dot(t) * sigma - 2 * self.alpha_dot(t) / self.alpha(t) * sigma**2

    def score_to_x0(self, score, x_t, t):
        t = t.reshape(-1, *[1] * (x_t.ndim - 1))
        return (x_t + self.sigma(t) ** 2 * score) / self.alpha(t)

    def init_latents(self, spatial_shape, tN, *, device=None, dtype=None):
        g = torch.Generator().manual_seed(0)
        noise = torch.randn(len(tN), *spatial_shape, generator=g, dtype=dtype)
        return self.sigma(tN).reshape(-1, *[1] * len(spatial_shape)) * noise

    def get_denoiser(self, *, x0_predictor):
        """The right-hand side of the probability-flow ODE."""

        def denoiser(x, t):
            at = t.reshape(-1, *[1] * (x.ndim - 1))
            score = (self.alpha(at) * x0_predictor(x, t) - x) / self.sigma(at) ** 2
            return self.drift(x, t) - self.diffusion(x, t) * score / 2

        return denoiser


class EDM(LinearGaussian):
    """x = x0 + t·eps, on Karras' grid."""

    sigma = staticmethod(lambda t: t)
    sigma_dot = staticmethod(torch.ones_like)
    alpha = staticmethod(torch.ones_like)
    alpha_dot = staticmethod(torch.zeros_like)

    def timesteps(self, num_steps, *, device=None, dtype=None):
        i = torch.arange(num_steps, dtype=torch.float64) / (num_steps - 1)
        t = (80 ** (1 / 7) + i * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
        return torch.cat([t, torch.zeros(1, dtype=t.dtype)]).to(dtype)


class VP(LinearGaussian):
    """alpha² + sigma² = 1, with a linear beta."""

    beta_min, beta_d = 0.1, 19.9

    def _log(self, t):
        return -0.5 * (self.beta_d / 2 * t**2 + self.beta_min * t)

    def alpha(self, t):
        return torch.exp(self._log(t))

    def alpha_dot(self, t):
        return -0.5 * (self.beta_d * t + self.beta_min) * self.alpha(t)

    def sigma(self, t):
        return torch.sqrt(-torch.expm1(2 * self._log(t)))

    def sigma_dot(self, t):
        return -self.alpha(t) * self.alpha_dot(t) / self.sigma(t)

    def timesteps(self, num_steps, *, device=None, dtype=None):
        return torch.cat([torch.linspace(1, 1e-3, num_steps, dtype=torch.float64), torch.zeros(1)]).to(dtype)


class Flow:
    """x = (1 − t)·x0 + t·eps; the denoiser is the velocity."""

    sigma = staticmethod(lambda t: t)
    alpha = staticmethod(lambda t: 1 - t)

    def timesteps(self, num_steps, *, device=None, dtype=None):
        return torch.linspace(1, 0, num_steps + 1, dtype=dtype)

    def get_denoiser(self, *, x0_predictor):
        return lambda x, t: (x - x0_predictor(x, t)) / t.reshape(-1, *[1] * (x.ndim - 1))


class Minimal:
    """What the protocol asks for, and nothing else."""

    def timesteps(self, num_steps, *, device=None, dtype=None):
        return torch.linspace(2.0, 0.0, num_steps + 1, device=device, dtype=dtype)


class Heun:
    """A solver of the protocol: Heun, and Euler on the step to 0."""

    def __init__(self, denoiser):
        self.denoiser = denoiser

    def step(self, x, t_cur, t_next):
        a, b = (t.reshape(-1, *[1] * (x.ndim - 1)) for t in (t_cur, t_next))
        d = self.denoiser(x, t_cur)
        y = x + (b - a) * d
        return y if not t_next.any() else x + (b - a) * (d + self.denoiser(y, t_next)) / 2


def sample(solver, xN, noise_scheduler, num_steps, time_eval=None):
    """The loop that calls a solver: one step for each pair of time steps, which are given as [B]."""
    t = noise_scheduler.timesteps(num_steps, device=xN.device, dtype=xN.dtype)
    x, found = xN, []
    for i in range(len(t) - 1):
        x = solver.step(x, t[i].expand(len(x)), t[i + 1].expand(len(x)))
        found += [x.clone()] if time_eval is not None and i in time_eval else []
    return x if time_eval is None else found


def legacy(net, latents, img_lr, sigmas):
    """Heun over levels that end with 0, with a network that is given img_lr, in float64."""
    x = latents.double() * sigmas[0]
    for i, (t, s) in enumerate(itertools.pairwise(sigmas)):
        d = (x - net(x, img_lr, torch.tensor(t)).double()) / t
        y = x + (s - t) * d
        if i < len(sigmas) - 2:
            y = x + (s - t) * (d + (y - net(y, img_lr, torch.tensor(s)).double()) / s) / 2
        x = y
    return x


class Patching:
    """Two halves of the height as patches, with `apply` and `fuse` as PhysicsNeMo's GridPatching2D has them."""

    def apply(self, input, additional_input=None):
        """[B, C, H, W] → [2·B, C, H/2, W]; the additional input goes, whole but thinned, beside each patch."""
        found = torch.cat(input.chunk(2, 2))
        if additional_input is not None:
            found = torch.cat([found, additional_input[:, :, ::2].repeat(2, 1, 1, 1)], 1)
        return found

    def fuse(self, input, batch_size):
        return torch.cat(input.split(batch_size), 2)
