"""Complete named recipes: functions that return a full configuration; variants call another and change fields.

`light` and `light-stage2` are trained on a laptop CPU, `base` and `base-2step` on one GPU, `tiny` in seconds (tests).
Those that begin with `wan` adapt a public model.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace

from context_as_memory.codec import ImageAutoencoderConfig
from context_as_memory.data.dataset import SamplingConfig
from context_as_memory.diffusion import FlowMatching
from context_as_memory.errors import UserError
from context_as_memory.retrieval import RetrievalConfig
from context_as_memory.training.codec import CodecRecipe
from context_as_memory.training.codec_loss import CodecLossConfig
from context_as_memory.training.denoiser import DenoiserRecipe
from context_as_memory.training.folders import Adaptation
from context_as_memory.training.self_memory import SelfWalkConfig
from context_as_memory.training.stream import StreamConfig
from context_as_memory.training.trainer import TrainConfig
from context_as_memory.transformer import TransformerConfig

LATENT_CHANNELS = 32  # of the autoencoder `light`


def codec_light() -> CodecRecipe:
    """The default image autoencoder: 16 times smaller on each side, 32 channels, made to be passed through often."""
    model = ImageAutoencoderConfig(
        latent_channels=32,
        stem=4,
        encoder_widths=(64, 128, 256),
        decoder_widths=(64, 128, 256),
        encoder_blocks=(0, 1, 2),
        decoder_blocks=(2, 2, 2),
        shortcuts=True,
    )
    loss = CodecLossConfig(perceptual=0.25, moved=0.3, rounds=0.5)
    train = TrainConfig(
        steps=40_000, budget_minutes=100, batch_size=8, learning_rate=1e-3, weight_decay=0.0, ema_decay=0.995
    )
    return CodecRecipe(model=model, loss=loss, train=train, crop=96, frame_stride=1)


def codec_base() -> CodecRecipe:
    """The same autoencoder on one GPU."""
    recipe = codec_light()
    train = replace(recipe.train, steps=60_000, budget_minutes=4, batch_size=64, ema_decay=0.9995, data_workers=8)
    return replace(recipe, train=train, crop=128)


def codec_onward() -> CodecRecipe:
    """A stage after any autoencoder (`--init`), on a CPU: towards other pictures, and the same after ten rounds.

    The encoder moves slowly, so that a denoiser of before can follow in a short stage of its own.
    """
    recipe = codec_light()
    loss = replace(recipe.loss, moved=0.2, rounds=0.8, round_latent=0.3)
    train = replace(recipe.train, budget_minutes=60, learning_rate=4e-4, rates=(("encoder", 0.5),))
    return replace(recipe, as_start=True, loss=loss, train=train)


def codec_decoder() -> CodecRecipe:
    """A stage after any autoencoder (`--init`), on a CPU: the decoder alone, so that ten rounds show what one shows.

    Its denoiser goes on with it as it is.
    """
    recipe = codec_onward()
    loss = replace(recipe.loss, moved=0.0, rounds=0.8, earlier_rounds=6, round_latent=0.3)
    return replace(recipe, decoder_only=True, loss=loss, train=replace(recipe.train, budget_minutes=30, rates=()))


def codec_tiny() -> CodecRecipe:
    """Seconds on a CPU; for tests."""
    model = ImageAutoencoderConfig(
        latent_channels=4,
        encoder_widths=(8, 8, 16),
        decoder_widths=(8, 8, 16),
        encoder_blocks=(0, 0, 1),
        decoder_blocks=(0, 0, 1),
    )
    loss = CodecLossConfig(moved=0.3, rounds=0.5)
    return CodecRecipe(model=model, loss=loss, train=replace(_tiny_training(), batch_size=2), crop=32)


def denoiser_light() -> DenoiserRecipe:
    """The CPU's denoiser: 5 M parameters, chunks of 4 frames of 60 tokens, up to 8 context frames, 4 sampling steps."""
    return DenoiserRecipe(
        model=TransformerConfig(
            num_attention_heads=4,
            attention_head_dim=64,
            in_channels=LATENT_CHANNELS,
            out_channels=LATENT_CHANNELS,
            ffn_dim=1024,
            num_layers=6,
        ),
        flow=FlowMatching(shift=2.0, preconditioned=True),
        sampling=SamplingConfig(chunks=4),
        train=TrainConfig(
            steps=40_000,
            budget_minutes=115,
            batch_size=16,
            optimizer="muon",
            learning_rate=2e-3,
            warmup_steps=60,
            ema_decay=0.997,
            log_every=10,
            sample_every=250,
        ),
        stream=StreamConfig(videos=24, first=6, held_out=4, segments=40, self_segments=20, workers=1, device_share=0.2),
    )


def denoiser_light_stage2() -> DenoiserRecipe:
    """A second stage for a `light` denoiser (`--init`), against drift: memory is often what the denoiser itself made on
    its own walks, or faulty, or noisy, and a perceptual distance asks for texture."""
    recipe = denoiser_light()
    return replace(
        recipe,
        sampling=replace(recipe.sampling, recent_only=0.2),
        self_memory=0.4,
        self_walks=SelfWalkConfig(walks=4, chunks=12, every=8),
        corrupted=0.2,
        perceptual=0.3,
        context_noise=0.3,
        memory_noise=0.2,
        train=replace(recipe.train, learning_rate=8e-4, budget_minutes=100, decay_fraction=0.7, warmup_steps=40),
    )


def denoiser_base() -> DenoiserRecipe:
    """The denoiser for one GPU, in slices of nine minutes: 12 M parameters, the same format as `light`, and all that
    `light-stage2` does from the start.

    The learning rate stays where it is and falls only at the end of a slice, so that slices that begin with the weights
    of the one before (`--init`) add up.
    """
    recipe = denoiser_light_stage2()
    return replace(
        recipe,
        model=replace(recipe.model, num_attention_heads=6, ffn_dim=1536),
        sampling=SamplingConfig(recent_only=0.15),
        context_slots=(4, 8),  # each number costs half a minute of compiling
        corrupted=0.15,
        self_walks=SelfWalkConfig(walks=64, chunks=16, every=8),
        train=TrainConfig(
            steps=200_000,
            budget_minutes=8,
            batch_size=256,
            optimizer="muon",
            learning_rate=2e-3,
            decay_fraction=0.15,
            log_every=50,
            sample_every=1000,
            data_workers=14,
        ),
        stream=StreamConfig(first=64),
    )


def denoiser_onward() -> DenoiserRecipe:
    """A stage after any denoiser of ours (`--init`), on a CPU: towards other worlds, or after its autoencoder went on
    (`--codec`). Of the architecture of the start, whatever that is."""
    recipe = denoiser_light_stage2()
    return replace(
        recipe,
        as_start=True,
        self_memory=0.25,
        self_walks=SelfWalkConfig(walks=4, chunks=12, every=16),
        perceptual=0.2,
        train=replace(recipe.train, learning_rate=6e-4, budget_minutes=None, decay_fraction=0.3),
    )


def denoiser_base_2step() -> DenoiserRecipe:
    """A stage after `base` (`--init`): two sampling steps that go where twelve went."""
    recipe = denoiser_base()
    train = replace(
        recipe.train, learning_rate=5e-4, budget_minutes=2, warmup_steps=20, ema_decay=0.99, decay_fraction=0.6
    )
    return replace(recipe, num_steps=2, multistep=False, teacher_steps=6, train=replace(train, sample_every=200))


def wan_lora() -> DenoiserRecipe:
    """Memory for a public Wan model (`cam adapt`, then `--init`): camera heads, and matrices of rank 32 beside frozen
    weights. One chunk at a time, 32 a step on any number of GPUs; fits one card of 24 GB."""
    return DenoiserRecipe(
        adaptation=Adaptation(rank=32, alpha=32.0),
        flow=FlowMatching(shift=5.0),
        sampling_shift=5.0,
        # Frames are counted in latents here: four frames or, with a stride, more.
        sampling=SamplingConfig(chunks=1, hidden_frames=(1, 20), recent_only=0.1),
        num_steps=20,
        context_noise=0.15,
        sheet_frames=0,
        compile=False,
        train=TrainConfig(
            steps=5_000,
            batch_size=1,
            accumulate=32,
            checkpointing=True,
            learning_rate=1e-4,
            decay_fraction=0.2,
            sample_every=500,
            data_workers=4,
        ),
    )


def wan_full() -> DenoiserRecipe:
    """The same for all weights of the model; needs 40 GB for the small Wan, eight GPUs for the large one."""
    recipe = wan_lora()
    rates = tuple((name, 5.0) for name in ("camera_heads", "pixel_embedding", "camera_encoder"))
    train = replace(recipe.train, steps=10_000, learning_rate=2e-5, rates=rates)
    return replace(recipe, adaptation=Adaptation(rank=0), train=train)


def wan_swift() -> DenoiserRecipe:
    """A stage after either (`--init`, with LoRA merged): four steps without guidance that go where 24 with it went."""
    recipe = wan_lora()
    return replace(
        recipe,
        adaptation=Adaptation(rank=64, alpha=64.0, added=False),
        num_steps=4,
        multistep=False,
        teacher_steps=6,
        guidance=5.0,
        words_dropped=0.0,
        train=replace(recipe.train, steps=1_000, warmup_steps=20),
    )


def wan_tiny() -> DenoiserRecipe:
    """Seconds on a CPU, for tiny checkpoints in Wan's layout."""
    recipe = wan_lora()
    return replace(
        recipe,
        adaptation=Adaptation(rank=4, alpha=4.0),
        sampling=replace(recipe.sampling, pool_frames=(4, 40), hidden_frames=(1, 3)),
        retrieval=RetrievalConfig(max_context=3),
        context_slots=(2, 3),
        chunk_latents=2,
        num_steps=2,
        train=replace(
            _tiny_training(), optimizer="adamw", batch_size=1, accumulate=2, checkpointing=True, sample_every=20
        ),
    )


def denoiser_tiny() -> DenoiserRecipe:
    """Seconds on a CPU; for tests."""
    model = TransformerConfig(
        num_attention_heads=2,
        attention_head_dim=16,
        in_channels=4,
        out_channels=4,
        ffn_dim=32,
        num_layers=2,
        freq_dim=16,
    )
    return DenoiserRecipe(
        model=model,
        sampling=SamplingConfig(chunks=2, max_stride=1, pool_frames=(4, 8), hidden_frames=(1, 4), max_jump=8),
        retrieval=RetrievalConfig(max_context=3),
        context_slots=(2, 3),
        chunk_latents=2,
        num_steps=2,
        self_memory=0.5,
        self_walks=SelfWalkConfig(walks=2, chunks=2, every=1, most_error=1e9),
        sheet_frames=8,
        stream=StreamConfig(
            videos=3,
            frames=60,
            first=2,
            held_out=1,
            held_out_frames=60,
            segments=9,
            self_segments=6,
            workers=0,
            device_share=1.0,
        ),
        corrupted=0.3,
        memory_noise=0.1,
        train=replace(_tiny_training(), batch_size=4),
    )


def _tiny_training() -> TrainConfig:
    return TrainConfig(
        steps=3,
        optimizer="muon",
        log_every=1,
        sample_every=2,
        warmup_steps=1,
        data_workers=0,
        device="cpu",
        precision="fp32",
    )


CODEC_RECIPES: dict[str, Callable[[], CodecRecipe]] = {
    "tiny": codec_tiny,
    "light": codec_light,
    "base": codec_base,
    "onward": codec_onward,
    "decoder": codec_decoder,
}
DENOISER_RECIPES: dict[str, Callable[[], DenoiserRecipe]] = {
    "tiny": denoiser_tiny,
    "light": denoiser_light,
    "light-stage2": denoiser_light_stage2,
    "base": denoiser_base,
    "base-2step": denoiser_base_2step,
    "onward": denoiser_onward,
    "wan-lora": wan_lora,
    "wan-full": wan_full,
    "wan-swift": wan_swift,
    "wan-tiny": wan_tiny,
}


def codec_recipe(name: str) -> CodecRecipe:
    """The codec recipe of this name; `UserError` lists the known ones."""
    _check(name, CODEC_RECIPES)
    return CODEC_RECIPES[name]()


def denoiser_recipe(name: str) -> DenoiserRecipe:
    """The denoiser recipe of this name; `UserError` lists the known ones."""
    _check(name, DENOISER_RECIPES)
    return DENOISER_RECIPES[name]()


def _check(name: str, recipes: Mapping[str, object]) -> None:
    if name not in recipes:
        raise UserError(f"unknown recipe {name!r}: choose one of {', '.join(recipes)}")
