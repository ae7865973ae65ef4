"""Train a network on the handwritten digits and use it: compiled steps, saved model, answers."""

import numpy as np

import convc
from convc.train import Trainer, load_digits
from convc.train.lenet import lenet, with_loss

digits = load_digits()
network = lenet(channels=(8, 16), hidden=32)
trainer = Trainer(with_loss(network))  # loss, gradients and update: one native call a step

rng = np.random.default_rng(0)
for epoch in range(10):
    for batch in np.split(rng.permutation(1438)[:1408], 44):
        images, labels = digits.train_images[batch], digits.train_labels[batch]
        loss = trainer.step({"x": images, "labels": labels}, rate=0.02)
    print(f"epoch {epoch + 1:2}  loss of the last batch {loss:.4f}")

model = convc.compile(trainer.trained(network))
answers = model(digits.test_images).argmax(axis=1)
print(f"held out: {np.mean(answers == digits.test_labels):.1%} of {len(answers)} right")
