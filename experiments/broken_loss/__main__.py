from experiments.broken_loss.main import main

main()
