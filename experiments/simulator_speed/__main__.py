from experiments.simulator_speed.main import main

main()
