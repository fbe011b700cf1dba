"""Results that travel: a bundle of one entry with its proof, its check elsewhere, and the desk that receives and keeps them."""
