"""The whole story on a real small model: aligned base, fine-tune that loses it, protection back."""
