from experiments.refine_li2mno3.main import main

main()
