from experiments.effects.main import main

main()
