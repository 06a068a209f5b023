"""Programs that make models in Keras and Transformers, for the converters."""

KERAS = """
import keras, numpy as np
from keras import layers as L
keras.utils.set_random_seed(0)
start = keras.Input((16, 16, 3))
x = L.Conv2D(8, 3, strides=2, padding="same", name="stem")(start)
for i in range(2):
    y = L.Conv2D(8, 3, padding="same", use_bias=False, name=f"conv{i}")(x)
    y = L.ReLU()(L.BatchNormalization(name=f"conv_bn{i}")(y))
    y = L.DepthwiseConv2D(3, padding="same", use_bias=False, name=f"depth{i}")(y)
    y = L.ReLU(6)(L.BatchNormalization(scale=False, name=f"depth_bn{i}")(y))
    y = L.SeparableConv2D(8, 3, padding="same", name=f"separable{i}")(y)
    x = L.add([x, L.BatchNormalization(center=False, name=f"separable_bn{i}")(y)])
x = L.GlobalAveragePooling2D()(x)
x = L.BatchNormalization(name="dense_bn")(L.Dense(16, name="dense")(x))
x = L.Dense(4, activation="softmax", name="head")(L.Dropout(0.5)(x))
model = keras.Model(start, x)
for layer in model.layers:  # statistics as after training; equal scales and biases stay equal
    if isinstance(layer, L.BatchNormalization):
        layer.moving_mean.assign(np.random.normal(0, 0.1, layer.moving_mean.shape))
        layer.moving_variance.assign(np.random.uniform(0.5, 1.5, layer.moving_mean.shape))
model.save("model.keras")
model.save("model.h5")
model.export("exported", verbose=False)
"""

TRANSFORMERS = """
import torch, transformers as t
torch.manual_seed(0)
common = {"vocab_size": 100, "num_labels": 3}
bert = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
gpt2 = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 40, "bos_token_id": 99, "eos_token_id": 99}
distil = {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 32, "max_position_embeddings": 40}
labels = {"id2label": {0: "cat", 1: "dog"}, "label2id": {"cat": 0, "dog": 1}}
for name, config in {
    "bert": t.BertConfig(**common, **bert, max_position_embeddings=40),
    "roberta": t.RobertaConfig(**common, **bert, max_position_embeddings=42, type_vocab_size=1),
    "distilbert": t.DistilBertConfig(**common, **distil),
    "gpt2": t.GPT2Config(**common, **gpt2),
}.items():
    t.AutoModelForSequenceClassification.from_config(config).save_pretrained(name)
vit = t.ViTConfig(**bert, **labels, image_size=32, patch_size=8)
t.AutoModelForImageClassification.from_config(vit).save_pretrained("vit")
"""
