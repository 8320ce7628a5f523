"""EDM2's modules with mistakes planted in their text: each is one that an implementation of the paper makes easily.

A mutant is a list of edits, (file, text that occurs there once, text in its place). :func:`planted` executes the edited
files of `models/edm2/` as a package of its own, beside the real one, which stays as it is.
"""

from __future__ import annotations

import sys
import types
from importlib import import_module
from pathlib import Path
from typing import Any

REAL = "restart_sampling.models.edm2"
FILES = ("layers", "sampling", "unet", "networks", "pickled")

LITERAL_QKV = "q, k, v = normalize(self.attn_qkv(x).view(B, self.heads, C // self.heads, 3, H * W), 2).unbind(3)"
SAMPLING_QKV = "q, k, v = normalize(qkv, -1).permute(2, 0, 3, 1, 4)"
ROWS = "self.attn_qkv = Weight(weight.view(block.heads, -1, 3, C).permute(2, 0, 1, 3).reshape(3 * C, C))"
NORM = "return x / (rms + EPS).to(x.dtype)"
SKIPPED = "x if self.conv_skip is None else self.conv_skip(x)"
ENCODER = f"x = normalize({SKIPPED}, 1)"
NORMALIZED = f"x, y = normalized({SKIPPED})"
ONES = "x = torch.cat((x, torch.ones_like(x[:, :1])), dim=1)"
ONES_FIRST = "x = torch.cat((torch.ones_like(x[:, :1]), x), dim=1)"
EFFECTIVE = "return normalize(self.weight, tuple(range(1, self.weight.ndim))) * (gain / math.sqrt(fan_in))"
UP = 'F.interpolate(x, scale_factor=2, mode="nearest")'
LITERAL_SKIP = """        if self.decoder and self.conv_skip is not None:
            x = self.conv_skip(x)
        x = mp_sum"""

Edit = tuple[str, str, str]
# Steps that both forms take from the same function, or each from its own text.
BOTH: dict[str, list[Edit]] = {
    "eps dropped": [("layers", "EPS = 1e-4", "EPS = 0.0")],
    "eps of 1e-5": [("layers", "EPS = 1e-4", "EPS = 1e-5")],
    "eps under the root": [("layers", NORM, "return x / (rms.square() + EPS).sqrt().to(x.dtype)")],
    "eps on the L2 norm": [("layers", NORM, "return x / (rms / norm * (norm + EPS)).to(x.dtype)")],
    "0.5965 for 0.596": [("layers", "SILU = 0.596", "SILU = 0.5965")],
    "v not normalized": [
        ("layers", LITERAL_QKV, LITERAL_QKV + "; v = self.attn_qkv(x).view(q.shape[:3] + (3, -1)).unbind(3)[2]"),
        ("sampling", SAMPLING_QKV, SAMPLING_QKV + "; v = qkv.permute(2, 0, 3, 1, 4)[2]"),
    ],
    "q, k and v of L2 norm 1": [
        ("layers", LITERAL_QKV, LITERAL_QKV + "; q, k, v = (t / (C // self.heads) ** 0.5 for t in (q, k, v))"),
        ("sampling", SAMPLING_QKV, SAMPLING_QKV + "; q, k, v = (t / (C // self.heads) ** 0.5 for t in (q, k, v))"),
    ],
    "qkv ordered (3, head, channel)": [
        (
            "layers",
            LITERAL_QKV,
            "q, k, v = normalize(self.attn_qkv(x).view(B, 3, self.heads, C // self.heads, H * W), 3).unbind(1)",
        ),
        ("sampling", ROWS, "self.attn_qkv = Weight(weight.view(3 * C, C))"),
    ],
    "qkv ordered (head, 3, channel)": [
        (
            "layers",
            LITERAL_QKV,
            "q, k, v = normalize(self.attn_qkv(x).view(B, self.heads, 3, C // self.heads, H * W), 3).unbind(2)",
        ),
        ("sampling", ROWS, ROWS.replace("heads, -1, 3, C).permute(2, 0, 1, 3)", "heads, 3, -1, C).transpose(0, 1)")),
    ],
    "attention without 1/sqrt(d)": [
        ("layers", "v.transpose(2, 3))", "v.transpose(2, 3), scale=1.0)"),
        ("sampling", "product_attention(q, k, v)", "product_attention(q, k, v, scale=1.0)"),
    ],
    "q and k swapped": [
        ("layers", "q, k, v = normalize", "k, q, v = normalize"),
        ("sampling", "q, k, v = normalize", "k, q, v = normalize"),
    ],
    "pixel norm before conv_skip": [
        ("layers", ENCODER, "x = normalize(x, 1) if self.conv_skip is None else self.conv_skip(normalize(x, 1))"),
        ("sampling", NORMALIZED, f"x = normalize(x, 1); x = {SKIPPED}; y = F.silu(x)"),
    ],
    "no pixel norm": [("layers", ENCODER, f"x = {SKIPPED}"), ("sampling", NORMALIZED, f"x = {SKIPPED}; y = F.silu(x)")],
    "pixel norm in the decoder": [
        ("layers", "        y = self.conv_res0(", "        x = normalize(x, 1)\n        y = self.conv_res0("),
        ("sampling", "            y = F.silu(x)\n", "            x, y = normalized(x)\n"),
    ],
    "plain concatenation": [("layers", "return c * (1 - t) / math.sqrt(a), c * t / math.sqrt(b)", "return 1.0, 1.0")],
    "concatenation weighted by t alone": [
        ("layers", "return c * (1 - t) / math.sqrt(a), c * t / math.sqrt(b)", "return 2**0.5 * (1 - t), 2**0.5 * t")
    ],
    "concat_balance as the share of the main branch": [
        (
            "layers",
            "return c * (1 - t) / math.sqrt(a), c * t / math.sqrt(b)",
            "t = 1 - t; return c * (1 - t) / a**.5, c * t / b**.5",
        )
    ],
    "sums with the shares swapped": [("layers", "return (1 - t) / norm, t / norm", "return t / norm, (1 - t) / norm")],
    "sums that average": [("layers", "return (1 - t) / norm, t / norm", "return 1 - t, t")],
    "skip first": [
        ("unet", "mp_cat(x, stack.pop(), self.concat_balance)", "mp_cat(stack.pop(), x, 1 - self.concat_balance)"),
        ("sampling", "torch.cat((x, stack.pop()), dim=1)", "torch.cat((stack.pop(), x), dim=1)"),
    ],
    "skips in the order they came": [
        ("unet", "mp_cat(x, stack.pop(), self", "mp_cat(x, stack.pop(0), self"),
        ("sampling", "torch.cat((x, stack.pop()), dim=1)", "torch.cat((x, stack.pop(0)), dim=1)"),
    ],
    "ones first": [("unet", ONES, ONES_FIRST), ("sampling", ONES, ONES_FIRST)],
    "zeros for ones": [(f, ONES, ONES.replace("ones_like", "zeros_like")) for f in ("unet", "sampling")],
    "weights not normalized": [("layers", EFFECTIVE, "return self.weight * (gain / math.sqrt(fan_in))")],
    "weights normalized as a whole": [("layers", EFFECTIVE, EFFECTIVE.replace("range(1,", "range("))],
    "weights not divided by sqrt(fan_in)": [
        ("layers", EFFECTIVE, EFFECTIVE.replace("gain / math.sqrt(fan_in)", "gain"))
    ],
    "labels not scaled": [
        ("unet", "self.emb_label(labels * math.sqrt(labels.shape[1]))", "self.emb_label(labels)"),
        ("sampling", "            of_label *= math.sqrt(unet.emb_label.weight.shape[1])\n", ""),
    ],
    "no labels as no term": [
        ("unet", "if self.emb_label is not None:", "if self.emb_label is not None and labels is not None:"),
        (
            "sampling",
            "emb = self.emb_noise(self.emb_fourier(c_noise))\n",
            "emb = self.emb_noise(self.emb_fourier(c_noise)) * (1.0 if labels is not None else 2**0.5)\n",
        ),
    ],
    "bilinear up": [("layers", UP, 'F.interpolate(x, scale_factor=2, mode="bilinear")')],
    "down by every second pixel": [("layers", "F.avg_pool2d(x, 2)", "x[:, :, ::2, ::2]")],
    "down by the maximum": [("layers", "F.avg_pool2d(x, 2)", "F.max_pool2d(x, 2)")],
    "embedding factor without 1": [
        ("layers", "self.emb_linear(emb, self.emb_gain) + 1", "self.emb_linear(emb, self.emb_gain)"),
        ("sampling", "(self.emb_linear(F.silu(emb)) + 1)", "self.emb_linear(F.silu(emb))"),
    ],
    "gain of 1 + gain": [
        ("layers", "self.emb_linear(emb, self.emb_gain)", "self.emb_linear(emb, 1 + self.emb_gain)"),
        ("sampling", "block.emb_linear.effective(block.emb_gain)", "block.emb_linear.effective(1 + block.emb_gain)"),
    ],
    "no out_gain": [
        ("unet", "self.out_conv(x, self.out_gain)", "self.out_conv(x)"),
        ("sampling", "unet.out_conv.effective(unet.out_gain)", "unet.out_conv.effective()"),
    ],
    "embedding without an activation": [
        ("unet", "return mp_silu(emb)", "return emb"),
        ("sampling", "self.emb_linear(F.silu(emb))", "self.emb_linear(emb * 0.596)"),
    ],
    "an activation before out_conv": [
        ("unet", "self.out_conv(x, self.out_gain)", "self.out_conv(mp_silu(x), self.out_gain)"),
        ("sampling", "out: Tensor = self.out_conv(x)", "out: Tensor = self.out_conv(F.silu(x) / 0.596)"),
    ],
    "sine for cosine": [("layers", ".cos() * math.sqrt(2)", ".sin() * math.sqrt(2)")],
    "Fourier features without sqrt(2)": [("layers", ".cos() * math.sqrt(2)", ".cos()")],
    "not clipped": [
        ("layers", "return x if self.clip_act is None else x.clamp(-self.clip_act, self.clip_act)", "return x"),
        ("sampling", "return x if self.clip_act is None else x.clamp_(-self.clip_act, self.clip_act)", "return x"),
    ],
    "clipped before the attention": [
        (
            "layers",
            "        if self.heads:\n            x = mp",
            "        x = x.clamp(-self.clip_act, self.clip_act)\n        if self.heads:\n            x = mp",
        ),
        ("layers", "return x if self.clip_act is None else x.clamp(-self.clip_act, self.clip_act)", "return x"),
        (
            "sampling",
            "        if self.heads:\n            x = self",
            "        x = x.clamp_(-self.clip_act, self.clip_act)\n        if self.heads:\n            x = self",
        ),
        ("sampling", "return x if self.clip_act is None else x.clamp_(-self.clip_act, self.clip_act)", "return x"),
    ],
    "gains widened before they are divided": [("pickled", "(tensor / root).float() * root", "tensor.float()")],
}
# Steps of one form alone.
LITERAL: dict[str, list[Edit]] = {
    "conv_skip before the residual branch": [
        ("layers", LITERAL_SKIP, "        x = mp_sum"),
        (
            "layers",
            "        y = self.conv_res0(mp_silu(x))",
            "        y = self.conv_res0(mp_silu(x))\n"
            "        if self.decoder and self.conv_skip is not None:\n            x = self.conv_skip(mp_silu(x))",
        ),
    ],
    "no activation before conv_res0": [("layers", "self.conv_res0(mp_silu(x))", "self.conv_res0(x)")],
    "concat_balance for the sum": [
        ("unet", "labels.shape[1])), self.label_balance)", "labels.shape[1])), self.concat_balance)")
    ],
}
SAMPLING: dict[str, list[Edit]] = {
    "res_balance not in conv_res1": [("sampling", "(of_y / SILU)", "(1 / SILU)")],
    "SILU left out of conv_res0": [("sampling", "block.conv_res0.effective() / SILU", "block.conv_res0.effective()")],
    "SILU left out of conv_res1": [("sampling", "(of_y / SILU)", "of_y")],
    "SILU left out of emb_linear": [("sampling", "(block.emb_gain) / SILU", "(block.emb_gain)")],
    "share of x twice": [
        ("sampling", "weight, self.of_x = weight * of_x, 1.0", "weight, self.of_x = weight * of_x, of_x")
    ],
    "share of x left out of conv_skip": [("sampling", "weight, self.of_x = weight * of_x, 1.0", "self.of_x = 1.0")],
    "attn_balance left out": [
        ("sampling", "block.attn_proj.effective().view(C, C) * of_a", "block.attn_proj.effective().view(C, C)")
    ],
    "share of noise left out": [("sampling", "unet.emb_noise.effective() * of_noise", "unet.emb_noise.effective()")],
    "share of the class left out": [
        (
            "sampling",
            "of_noise, of_label = sum_weights(unet.label_balance)",
            "of_noise, of_label = sum_weights(unet.label_balance)[0], 1.0",
        )
    ],
    "concatenation not scaled": [("sampling", "if self.scaled is not None:", "if False:")],
    "factors in another order": [("sampling", ".split(self.sizes, dim=1))[::-1]", ".split(self.sizes, dim=1))")],
    "activation in place on a skip": [("sampling", "return y, F.silu(y)", "return y, F.silu(y, inplace=True)")],
}


def planted(edits: list[Edit], name: str, modules: dict[str, Any] | None = None) -> dict[str, types.ModuleType]:
    """Return the files of `models/edm2/` by their names, with `edits`, as modules of a package called `name`.

    `modules` is where the package is registered, by default sys.modules.
    """
    registry = sys.modules if modules is None else modules
    real = import_module(REAL)
    package = types.ModuleType(f"{REAL}_{name}")
    package.__path__ = list(real.__path__)
    registry[package.__name__] = package
    found = {}
    for file in FILES:
        text = (Path(real.__path__[0]) / f"{file}.py").read_text(encoding="utf-8")
        for where, old, new in edits:
            if where == file:
                assert text.count(old) == 1, f"{old!r} occurs {text.count(old)} times in {file}.py"
                text = text.replace(old, new)
        module = types.ModuleType(f"{package.__name__}.{file}")
        module.__package__ = package.__name__
        registry[module.__name__] = module
        exec(compile(text, f"{file}.py with a mistake", "exec"), module.__dict__)
        setattr(package, file, module)
        found[file] = module
    return found
