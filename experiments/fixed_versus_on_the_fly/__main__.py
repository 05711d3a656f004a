from experiments.fixed_versus_on_the_fly.main import main

main()
