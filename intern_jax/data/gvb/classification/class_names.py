"""Class names that are not in the data set's own files, in the order of its class numbers."""

CLASSES: dict[str, tuple[str, ...]] = {
    "svhn": tuple("0123456789"),
    "retinopathy": ("no retinopathy", "mild", "moderate", "severe", "proliferative"),
    "fer2013": ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral"),
    "pcam": ("no tumour", "tumour"),
    # https://www.robots.ox.ac.uk/~vgg/data/flowers/102/categories.html, in the order of imagelabels.mat.
    "flowers102": tuple(
        """pink primrose|hard-leaved pocket orchid|canterbury bells|sweet pea|english marigold|tiger lily|moon orchid
bird of paradise|monkshood|globe thistle|snapdragon|colt's foot|king protea|spear thistle|yellow iris|globe-flower
purple coneflower|peruvian lily|balloon flower|giant white arum lily|fire lily|pincushion flower|fritillary|red ginger
grape hyacinth|corn poppy|prince of wales feathers|stemless gentian|artichoke|sweet william|carnation|garden phlox
love in the mist|mexican aster|alpine sea holly|ruby-lipped cattleya|cape flower|great masterwort|siam tulip
lenten rose|barbeton daisy|daffodil|sword lily|poinsettia|bolero deep blue|wallflower|marigold|buttercup|oxeye daisy
common dandelion|petunia|wild pansy|primula|sunflower|pelargonium|bishop of llandaff|gaura|geranium|orange dahlia
pink-yellow dahlia?|cautleya spicata|japanese anemone|black-eyed susan|silverbush|californian poppy|osteospermum
spring crocus|bearded iris|windflower|tree poppy|gazania|azalea|water lily|rose|thorn apple|morning glory
passion flower|lotus|toad lily|anthurium|frangipani|clematis|hibiscus|columbine|desert-rose|tree mallow|magnolia
cyclamen|watercress|canna lily|hippeastrum|bee balm|ball moss|foxglove|bougainvillea|camellia|mallow|mexican petunia
bromelia|blanket flower|trumpet creeper|blackberry lily""".replace("\n", "|").split("|")
    ),
    # The German road traffic regulations' names of the signs, in English.
    "gtsrb": tuple(
        """speed limit 20|speed limit 30|speed limit 50|speed limit 60|speed limit 70|speed limit 80
end of speed limit 80|speed limit 100|speed limit 120|no overtaking|no overtaking by lorries
right of way at the next crossing|priority road|give way|stop|no vehicles|no lorries|no entry
general danger|curve to the left|curve to the right|double curve|uneven road|slippery road
road narrows on the right|road works|traffic lights|pedestrians|children|bicycles|ice or snow
wild animals|end of all restrictions|turn right ahead|turn left ahead|straight ahead only
straight or right|straight or left|keep right|keep left|roundabout|end of no overtaking
end of no overtaking by lorries""".replace("\n", "|").split("|")
    ),
}
