from experiments.training_speed.main import main

main()
