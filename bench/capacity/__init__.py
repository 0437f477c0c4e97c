"""What so many emails a day need: costs measured on real engines, a linear model of them, and what follows from it."""
