"""Results that travel: a bundle of one entry with its proof, its check elsewhere, and the inbox that receives and keeps them."""
